package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/onnx"
)

func (a *app) modelAdd() *cobra.Command {
	c := &cobra.Command{
		Use: "add FILE.onnx|FOLDER", Short: "Add any ONNX model, to be served behind /v2/models", Args: cobra.ExactArgs(1),
		Long: `add copies an ONNX file with its external data, or a folder that has one, into the store and reads its
inputs and outputs from it. "pelton up --model NAME" then serves it behind /v2/models/NAME/infer, and as jobs
of kind tensor.

With --max-batch, calls of several jobs are joined along the first dimension of all inputs. Give it only for a
model that computes each row by itself.`,
		Example: example("pelton model add ./digits.onnx --name digits --max-batch 32", "pelton up --model digits"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bar := a.newProgress()
			defer bar.finish()
			graph, err := hub.GraphFile(args[0])
			if err != nil {
				return err
			}
			library, err := hub.Library(cmd.Context(), a.settings.text("ort-lib"), bar.report)
			if err != nil {
				return err
			}
			m := model.Manifest{Name: a.settings.text("name"), MaxBatch: a.settings.number("max-batch")}
			if m.Name == "" {
				m.Name = strings.ToLower(strings.TrimSuffix(filepath.Base(graph), filepath.Ext(graph)))
			}
			if m.Inputs, m.Outputs, err = onnx.Ports(library, graph); err != nil {
				return err
			}
			dir, m, err := hub.New(hub.Config{}).Add(cmd.Context(), a.store(), args[0], m, bar.report)
			if err != nil {
				return err
			}
			bar.finish()
			fmt.Fprintf(a.out, "%s:%s %s\n", m.Name, m.Variant, dir)
			for _, p := range m.Inputs {
				fmt.Fprintf(a.err, "input %s %s %v\n", p.Name, p.Type, p.Shape)
			}
			for _, p := range m.Outputs {
				fmt.Fprintf(a.err, "output %s %s %v\n", p.Name, p.Type, p.Shape)
			}
			return nil
		},
	}
	storeFlag(c)
	f := c.Flags()
	f.String("name", "", "`name` of the model; default the file's")
	f.Int("max-batch", 0, "most `rows` that calls of several jobs are joined to; 0 is never")
	f.String("ort-lib", "", "`path` of the ONNX Runtime library; found or fetched when empty")
	return c
}
