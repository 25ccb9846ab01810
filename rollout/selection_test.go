package rollout

import "testing"

func TestSelection(t *testing.T) {
	spec := Spec{
		Where: `role != "database"`, Exclude: []Host{"out.example.net"},
		Limits: []Limit{{Where: `labels.zone == "b"`, Percent: 10}, {Where: `role == "web"`}},
	}
	s, err := spec.Selection()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		host  Host
		role  Word
		zone  Word
		group string
		ok    bool
	}{
		{"a.example.net", "api", "a", "api", true},
		{"a.example.net", "api", "b", "api/0", true},
		{"a.example.net", "web", "b", "web/0", true}, // the first that matches
		{"a.example.net", "web", "a", "web/1", true},
		{"a.example.net", "database", "a", "", false},
		{"out.example.net", "api", "a", "", false},
	} {
		if group, ok := s.Group(tt.host, tt.role, map[Word]Word{"zone": tt.zone}); group != tt.group || ok != tt.ok {
			t.Errorf("%s, role %s, zone %s: group %q, %v; want %q, %v", tt.host, tt.role, tt.zone, group, ok, tt.group, tt.ok)
		}
	}
	if _, err := (&Spec{Limits: []Limit{{}, {Where: "role =="}}}).Selection(); err == nil || err.(*FieldError).Field != "limits[1].where" {
		t.Errorf("a limit that doesn't compile: %v", err)
	}
	back, err := (&Spec{Rollback: "r"}).Selection()
	if err != nil {
		t.Fatal(err)
	}
	if group, ok := back.Group("a.example.net", "web", nil); group != "web" || !ok {
		t.Errorf("a rollback: group %q, %v", group, ok)
	}
}
