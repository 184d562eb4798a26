package cli

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/memory"
	"github.com/pelton-run/pelton/runtime/model"
)

func size(n int64) string { return memory.FormatSize(n) }

func (a *app) modelCommand() *cobra.Command {
	c := &cobra.Command{Use: "model", Short: "Fetch, list and compare models", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(a.modelPull(), a.modelAdd(), a.modelList(), a.modelShow(), a.modelRemove(), a.modelEval())
	return c
}

// storeFlag names the folder of the models.
func storeFlag(c *cobra.Command) {
	c.Flags().String("models", model.DefaultRoot(), "`folder` of the converted models")
}

func (a *app) store() model.Store { return model.Store{Root: a.settings.text("models")} }

func (a *app) modelPull() *cobra.Command {
	c := &cobra.Command{
		Use:   "pull NAME[:VARIANT]|FILE.gguf[:VARIANT]|FOLDER[:GRAPH]|hf:ORG/NAME[@REVISION][:FILE]",
		Short: "Fetch a model and convert it, if it is not there yet",
		Long: `pull brings a model into the store: one that Pelton knows by name, a GGUF file (converted to the variant), a
folder with a decoder that the onnxruntime-genai builder or Optimum exported (taken as it is), or either of the
latter from a Hugging Face hub. There, a GGUF file is preferred to an ONNX graph, and 8 bit to other formats; name
a file or a folder after the colon to choose another. HF_TOKEN or HF_TOKEN_FILE opens private and gated models,
HF_ENDPOINT names another hub.`,
		Example: example("pelton model pull smollm2", "pelton model pull smollm2:fp32", "pelton model pull ./my-model.gguf", "pelton model pull ./exported:onnx/model_q4.onnx",
			"pelton model pull hf:bartowski/SmolLM2-135M-Instruct-GGUF", "pelton model pull hf:onnx-community/Qwen3-0.6B-ONNX@main:onnx/model_q4.onnx"),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bar := a.newProgress()
			defer bar.finish()
			name, variant := hub.SplitRef(args[0])
			if v := a.settings.text("variant"); v != "" {
				variant = v
			}
			dir, m, err := hub.Ensure(cmd.Context(), a.store(), name, variant, bar.report)
			if err != nil {
				return err
			}
			bar.finish()
			fmt.Fprintf(a.out, "%s:%s %s\n", m.Name, m.Variant, dir)
			return nil
		},
	}
	storeFlag(c)
	c.Flags().String("variant", "", "`variant` that a GGUF file is converted to")
	return c
}

func (a *app) modelList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Short: "List the converted models", Args: cobra.NoArgs, Example: example("pelton model ls -o json"),
		RunE: func(*cobra.Command, []string) error {
			list, err := a.store().List() // the error tells what is damaged and not in the list
			if err != nil && list == nil {
				return err
			}
			if list == nil {
				list = []model.Manifest{}
			}
			t := table{head: []string{"MODEL", "VARIANT", "PARAMETERS", "CONTEXT", "SIZE", "FINGERPRINT"}, value: list}
			for _, m := range list {
				t.rows = append(t.rows, []string{m.Name, m.Variant, fmt.Sprintf("%dM", m.Parameters/1e6), strconv.Itoa(m.Shape.ContextLength), size(diskSize(m)), model.Fingerprint(m)})
			}
			return errors.Join(a.print(t), err)
		},
	}
	storeFlag(c)
	outputFlags(c)
	return c
}

func diskSize(m model.Manifest) int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func (a *app) modelShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME[:VARIANT]", Short: "Show one converted model and check its files", Args: cobra.ExactArgs(1), Example: example("pelton model show smollm2"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, m, err := a.findModel(args[0])
			if err != nil {
				return err
			}
			state := "intact"
			if err := model.Verify(cmd.Context(), dir, m); err != nil {
				state = fmt.Sprintf("%v: remove it with pelton model rm %s:%s, and pull it again", err, m.Name, m.Variant)
			}
			t := table{head: []string{"KEY", "VALUE"}, value: m}
			add := func(k, v string) { t.rows = append(t.rows, []string{k, v}) }
			add("model", m.Name+":"+m.Variant)
			add("folder", dir)
			add("architecture", m.Architecture)
			add("parameters", strconv.FormatInt(m.Parameters, 10))
			add("context length", strconv.Itoa(m.Shape.ContextLength))
			add("kv cache", size(m.Shape.KVBytesPerToken())+" a token")
			add("source", m.Source.URL)
			add("license", dash(m.Source.License))
			for _, f := range m.Files {
				add("file", fmt.Sprintf("%s  %s  sha256 %s", f.Name, size(f.Size), f.SHA256))
			}
			add("files", state)
			if err := a.print(t); err != nil {
				return err
			}
			if state != "intact" {
				return coded{errQuiet, exitCheck}
			}
			return nil
		},
	}
	storeFlag(c)
	outputFlags(c)
	return c
}

// storedName cuts a reference into the name in the store and the variant, "" where none is named.
func storedName(ref string) (name, variant string) {
	name, variant = hub.SplitRef(ref)
	if e, ok := hub.Lookup(name); ok {
		name = e.Name
		variant = cmp.Or(variant, e.Variant)
	}
	return name, variant
}

func (a *app) findModel(ref string) (string, model.Manifest, error) {
	return a.store().Find(storedName(ref))
}

func (a *app) modelRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME:VARIANT", Short: "Remove one converted variant", Args: cobra.ExactArgs(1), Example: example("pelton model rm smollm2:fp32"),
		RunE: func(_ *cobra.Command, args []string) error {
			name, variant := storedName(args[0])
			if variant == "" {
				_, m, err := a.findModel(args[0])
				if err != nil {
					return err
				}
				variant = m.Variant
			}
			return a.store().Remove(name, variant) // also when it is damaged
		},
	}
	storeFlag(c)
	return c
}
