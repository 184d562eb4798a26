package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// output is stdout. It keeps why it could not be written to: no command ends well whose result was lost.
type output struct {
	io.Writer
	err error
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// outputFlags adds -o to a listing.
func outputFlags(c *cobra.Command) {
	c.Flags().StringP("output", "o", "table", "`format`: table, wide, json or yaml")
}

// table is one listing: the rows as people read them, and the value behind them for -o json and yaml.
type table struct {
	head  []string
	wide  int // columns from this one on are for -o wide; 0 is none
	rows  [][]string
	value any
}

// print writes t in the format asked for.
func (a *app) print(t table) error {
	format := a.settings.text("output")
	switch format {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(t.value)
	case "yaml":
		return writeYAML(a.out, t.value)
	default:
		n := len(t.head)
		if format == "table" && t.wide > 0 {
			n = t.wide
		}
		w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, strings.Join(t.head[:n], "\t"))
		for _, r := range t.rows {
			fmt.Fprintln(w, strings.Join(r[:n], "\t"))
		}
		return w.Flush()
	}
}

// forPeople tells whether what is printed is a table, before which there may be lines.
func (a *app) forPeople() bool {
	format := a.settings.text("output")
	return format == "table" || format == "wide"
}

// openResult opens the file that a command writes at its end, nil when path is empty. What it holds stays until there
// is better.
func openResult(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
}

// writeResult writes and closes such a file, if there is one.
func writeResult(to *os.File, data []byte) error {
	if to == nil {
		return nil
	}
	_ = to.Truncate(0) // a pipe has no length
	_, err := to.Write(data)
	return errors.Join(err, to.Close())
}

// formats of -o.
var formats = []string{"table", "wide", "json", "yaml"}

// writeYAML goes through JSON so that both formats have the same keys.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var plain any
	if err := yaml.Unmarshal(b, &plain); err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	return enc.Encode(plain)
}

func ago(unixMS int64) string {
	if unixMS == 0 {
		return "-"
	}
	return time.Since(time.UnixMilli(unixMS)).Round(time.Second).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
