package field

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Percent is a percentage, above 0 and at most 100. It reads 30, 30.5 and
// "30%". The zero Percent means "not given".
type Percent float64

// UnmarshalJSON reads 30, "30" or "30%".
func (p *Percent) UnmarshalJSON(b []byte) error {
	s := string(b)
	if strings.HasPrefix(s, `"`) {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		s = strings.TrimSpace(strings.TrimSuffix(s, "%"))
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) {
		return fmt.Errorf("%q isn't a percentage: want a number such as 30 or 30%%", Shorten(s))
	}
	if f <= 0 || f > 100 {
		return fmt.Errorf("%v isn't a percentage above 0 and at most 100", f)
	}
	*p = Percent(f)
	return nil
}

// Or is p, or d where p wasn't given.
func (p Percent) Or(d Percent) Percent {
	if p == 0 {
		return d
	}
	return p
}

// String gives "30%".
func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'g', -1, 64) + "%" }
