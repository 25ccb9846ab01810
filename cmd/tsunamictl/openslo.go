package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// maxOpenSLO bounds a file of OpenSLO documents.
const maxOpenSLO = 1 << 20

// openSLO is as much of an OpenSLO document as an objective is made of
// (https://github.com/OpenSLO/OpenSLO, v1): SLO and SLI.
type openSLO struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		RatioMetric *openRatio `yaml:"ratioMetric"` // of an SLI
		Indicator   *struct {
			Spec struct {
				RatioMetric *openRatio `yaml:"ratioMetric"`
			} `yaml:"spec"`
		} `yaml:"indicator"`
		IndicatorRef    string `yaml:"indicatorRef"`
		BudgetingMethod string `yaml:"budgetingMethod"`
		TimeWindow      []struct {
			Duration string `yaml:"duration"`
		} `yaml:"timeWindow"`
		Objectives []struct {
			Target        float64 `yaml:"target"`
			TargetPercent float64 `yaml:"targetPercent"`
		} `yaml:"objectives"`
	} `yaml:"spec"`
}

type openRatio struct {
	Counter bool        `yaml:"counter"`
	Good    *openMetric `yaml:"good"`
	Bad     *openMetric `yaml:"bad"`
	Total   *openMetric `yaml:"total"`
}

type openMetric struct {
	MetricSource struct {
		Type string `yaml:"type"`
		Spec struct {
			Query string `yaml:"query"`
		} `yaml:"spec"`
	} `yaml:"metricSource"`
}

func (a *app) importCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "import -f FILE", Short: "Print OpenSLO's documents as objectives",
		Long: `Print the SLO documents of an OpenSLO file (v1) as objectives with a ratio, for
'tsunamictl apply -f -'. A rollout that names one holds while its error budget burns
too fast. Their indicators have to be ratios of counters in Prometheus.`,
		Example: "  tsunamictl objective import -f slo.yaml > objectives.yaml",
		Args:    arguments(""),
		RunE: func(_ *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("-f FILE is missing: wants the OpenSLO documents, or - for the standard input")
			}
			text, err := a.openSLOFile(file)
			if err != nil {
				return &usageError{err}
			}
			objectives, err := fromOpenSLO(text)
			if err != nil {
				return &usageError{fmt.Errorf("%s: %w", file, err)}
			}
			for i := range objectives {
				if err := a.printObjective(i, &objectives[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `file` of OpenSLO documents, - for the standard input")
	return cmd
}

func (a *app) openSLOFile(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(os.Stdin, maxOpenSLO))
	}
	return os.ReadFile(file)
}

// printObjective prints one as a document.
func (a *app) printObjective(i int, o *slo.Objective) error {
	b, err := yaml.MarshalWithOptions(struct {
		Kind  string         `json:"kind"`
		Name  field.ID       `json:"name"`
		Ratio map[string]any `json:"ratio"`
	}{string(control.KindObjective), o.Name, ratioFields(o.Ratio)}, yaml.UseJSONMarshaler(), yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return err
	}
	if i > 0 {
		b = append([]byte("---\n"), b...)
	}
	_, err = a.out.Write(b)
	return err
}

// ratioFields are those of a ratio that have a value, as its document has them.
func ratioFields(r *slo.Ratio) map[string]any {
	m := map[string]any{"total": r.Total, "target": r.Target.String(), "window": r.Window.String()}
	if r.Good != "" {
		m["good"] = r.Good
	} else {
		m["bad"] = r.Bad
	}
	return m
}

// fromOpenSLO reads a file's SLO documents, with the SLI documents that they refer
// to.
func fromOpenSLO(text []byte) (out []slo.Objective, err error) {
	var all []openSLO
	d := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc openSLO
		switch err := d.Decode(&doc); {
		case err == io.EOF:
			return convertAll(all)
		case err != nil:
			return nil, fmt.Errorf("this isn't OpenSLO: %w", err)
		}
		all = append(all, doc)
	}
}

func convertAll(all []openSLO) (out []slo.Objective, err error) {
	indicators := map[string]*openRatio{}
	for _, doc := range all {
		if doc.Kind == "SLI" {
			indicators[doc.Metadata.Name] = doc.Spec.RatioMetric
		}
	}
	for _, doc := range all {
		switch {
		case doc.APIVersion != "openslo/v1":
			return nil, fmt.Errorf("%s %s: apiVersion %q isn't known here: want openslo/v1", doc.Kind, doc.Metadata.Name, doc.APIVersion)
		case doc.Kind != "SLO":
			continue // they are only referred to
		}
		o, err := doc.objective(indicators)
		if err != nil {
			return nil, fmt.Errorf("SLO %s: %w", doc.Metadata.Name, err)
		}
		out = append(out, *o)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it has no document of kind SLO")
	}
	return out, nil
}

// objective makes an objective of an SLO.
func (d *openSLO) objective(indicators map[string]*openRatio) (*slo.Objective, error) {
	m, ok := indicators[d.Spec.IndicatorRef]
	if d.Spec.Indicator != nil {
		m, ok = d.Spec.Indicator.Spec.RatioMetric, true
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("its indicator %q isn't in the file", d.Spec.IndicatorRef)
	case m == nil:
		return nil, fmt.Errorf("its indicator isn't a ratioMetric: a threshold is an objective with promql")
	case !m.Counter:
		return nil, fmt.Errorf("its ratioMetric isn't of counters: write an objective with promql")
	case d.Spec.BudgetingMethod != "" && d.Spec.BudgetingMethod != "Occurrences":
		return nil, fmt.Errorf("budgetingMethod %s isn't known here: want Occurrences", d.Spec.BudgetingMethod)
	case len(d.Spec.Objectives) != 1:
		return nil, fmt.Errorf("it has %d objectives: want one", len(d.Spec.Objectives))
	case len(d.Spec.TimeWindow) != 1:
		return nil, fmt.Errorf("it has %d time windows: want one", len(d.Spec.TimeWindow))
	}
	r := &slo.Ratio{}
	for _, each := range []struct {
		from *openMetric
		to   *string
	}{{m.Good, &r.Good}, {m.Bad, &r.Bad}, {m.Total, &r.Total}} {
		if each.from == nil {
			continue
		}
		if kind := each.from.MetricSource.Type; !strings.EqualFold(cmp.Or(kind, "Prometheus"), "Prometheus") {
			return nil, fmt.Errorf("its metricSource is %s: want Prometheus", kind)
		}
		*each.to = strings.TrimSpace(each.from.MetricSource.Spec.Query)
	}
	target := d.Spec.Objectives[0]
	r.Target = field.Percent(cmp.Or(target.TargetPercent, 100*target.Target))
	var err error
	if r.Window, err = field.ParseDuration(d.Spec.TimeWindow[0].Duration); err != nil {
		return nil, fmt.Errorf("its time window: %w", err)
	}
	o := &slo.Objective{Name: field.ID(d.Metadata.Name), Ratio: r}
	return o, o.Validate()
}
