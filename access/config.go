package access

import (
	"slices"
	"strings"
	"text/template"

	"github.com/nats-io/jwt/v2"
)

// natsServer is what an external nats-server loads. Its paths are relative to
// where it is started, so that the folder can be copied.
var natsServer = template.Must(template.New("").Parse(`# A nats-server for Tsunami. Start it in this folder: nats-server -c nats-server.conf
# Written by tsunamictl access, which writes it anew with every change: keep
# settings of your own in a file that includes this one.

listen: "0.0.0.0:4222"

# Seeds and passwords never cross the wire, but what hosts are told does. Set
# this to your certificate, and clients to tls://.
# tls {
#   cert_file: "./server.crt"
#   key_file: "./server.key"
# }

# Identities: who is in an account, and what each may do, is in these JWTs.
operator: {{.Operator}}
system_account: {{(index .Accounts 0).Key}}
resolver: {
  type: full
  dir: "./accounts"
  allow_delete: false
  interval: "2m"
}
resolver_preload: {
{{- range .Accounts}}
  {{.Key}}: {{.JWT}}
{{- end}}
}

# A record is at most 1 MiB, and its header comes on top.
max_payload: 2MB

jetstream {
  store_dir: "./jetstream"
  # What was acknowledged is on the disk: a loss of power loses nothing.
  sync_interval: always
}
`))

// writeConfig writes nats-server.conf from the JWTs as they are.
func (s *Store) writeConfig() error {
	a, err := LoadServer(s.dir)
	if err != nil {
		return err
	}
	type account struct{ Key, JWT string }
	v := struct {
		Operator string
		Accounts []account
	}{Operator: a.Operator}
	for _, token := range slices.Concat([]string{a.System}, a.Accounts) {
		c, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			return err
		}
		v.Accounts = append(v.Accounts, account{c.Subject, token})
	}
	var b strings.Builder
	if err := natsServer.Execute(&b, v); err != nil {
		return err
	}
	return writeFile(s.path(serverDir, "nats-server.conf"), []byte(b.String()), 0o600)
}
