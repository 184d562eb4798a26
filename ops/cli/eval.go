package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/node"
	"github.com/pelton-run/pelton/ops/quality"
	"github.com/pelton-run/pelton/runtime/device"
	"github.com/pelton-run/pelton/runtime/engine"
	"github.com/pelton-run/pelton/runtime/hub"
	"github.com/pelton-run/pelton/runtime/model"
	"github.com/pelton-run/pelton/runtime/tokenizer"
)

func (a *app) modelEval() *cobra.Command {
	c := &cobra.Command{
		Use:   "eval NAME[:VARIANT]",
		Short: "Compare a variant's greedy continuations with a reference's",
		Long: `eval continues 200 prompts (English, code, ten languages, rare inputs) greedily by 64 tokens, with the variant
and with a reference: another variant (--reference) or transcripts of another implementation (--against).
It passes when enough agree up to the reference's first near tie (two best logits closer than 0.5), where any
rounding may decide, and enough to the end; otherwise the exit code is 8.`,
		Example: example("pelton model eval smollm2:q8 --reference fp32", "pelton model eval smollm2:fp32 --write fp32.jsonl",
			"pelton model eval smollm2:fp32 --against llamacpp.jsonl"),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.eval(cmd.Context(), args[0]) },
	}
	storeFlag(c)
	outputFlags(c)
	f := c.Flags()
	f.String("reference", "", "`variant` to compare with")
	f.String("against", "", "`file` of transcripts to compare with")
	f.String("write", "", "`file` to write the variant's transcripts to")
	f.Bool("distance", false, "compare the predictions at every position too, with gates on their divergence (needs --reference)")
	f.Float64("max-kl", 0.02, "`nats` of mean divergence that --distance allows")
	f.Float64("min-top", 0.97, "`share` of positions with the same likeliest token that --distance wants")
	f.Float64("max-perplexity", 0.01, "`share` by which --distance allows the perplexity to grow")
	f.Float64("min-near-tie", 0.98, "`share` of prompts that must agree up to the first near tie")
	f.Float64("min-end", 0, "`share` of prompts that must agree to the end")
	f.Int("every", 1, "take each `n`th prompt only")
	f.Int("tokens", 64, "tokens to generate for each prompt")
	f.Int("threads", 0, "`threads` of the engine; 0 is one for each core")
	f.String("device", "cuda:0", "`GPU` that variants for GPUs run on")
	f.String("ort-lib", "", "`path` of the ONNX Runtime library; found or fetched when empty")
	return c
}

func (a *app) eval(ctx context.Context, ref string) error {
	name, variant := hub.SplitRef(ref)
	reference, against := a.settings.text("reference"), a.settings.text("against")
	if reference != "" && against != "" {
		return usageError{errors.New("--reference and --against exclude each other")}
	}
	if a.settings.yes("distance") && reference == "" {
		return usageError{errors.New("--distance compares with a variant: name it with --reference")}
	}
	if a.settings.number("tokens") < 1 {
		return usageError{errors.New("--tokens must be at least 1")}
	}
	var want []quality.Transcript
	if against != "" { // before minutes of work
		var err error
		if want, err = readTranscripts(against); err != nil {
			return err
		}
	}
	to, err := openResult(a.settings.text("write"))
	if err != nil {
		return err
	}
	got, eos, err := a.transcribe(ctx, name, variant)
	if err != nil {
		return err
	}
	var transcripts bytes.Buffer
	if err := errors.Join(quality.Write(&transcripts, got), writeResult(to, transcripts.Bytes())); err != nil {
		return err
	}
	if reference == "" && against == "" {
		return nil
	}
	if reference != "" {
		if want, _, err = a.transcribe(ctx, name, reference); err != nil {
			return err
		}
	}
	report, err := quality.Compare(want, got, eos)
	if err != nil {
		return err
	}
	if err := a.print(reportTable(report)); err != nil {
		return err
	}
	if a.settings.yes("distance") {
		if err := a.distance(ctx, name, variant, reference, want); err != nil {
			return err
		}
	}
	if limits := (quality.Limits{Decided: *a.float("min-near-tie"), Same: *a.float("min-end")}); !report.Pass(limits) {
		return coded{fmt.Errorf("quality: %d and %d of %d prompts agree, %.0f %% and %.0f %% are needed", report.Decided, report.Same, report.Prompts, 100*limits.Decided, 100*limits.Same), exitCheck}
	}
	return nil
}

// openEngine opens a model's engine in this process; what is missing is fetched.
func (a *app) openEngine(ctx context.Context, name, variant string, bar *progress) (e engine.Engine, dir string, m model.Manifest, err error) {
	if dir, m, err = hub.Ensure(ctx, a.store(), name, variant, bar.report); err != nil {
		return nil, "", m, err
	}
	library, err := hub.Library(ctx, a.settings.text("ort-lib"), bar.report)
	if err != nil {
		return nil, "", m, err
	}
	gpu, err := device.Parse(a.settings.text("device"))
	if err != nil {
		return nil, "", m, usageError{fmt.Errorf("--device: %w", err)}
	}
	e, err = node.OpenEngine(dir, m, library, a.settings.number("threads"), gpu)
	return e, dir, m, err
}

// transcribe generates with one variant, which is fetched when it is missing.
func (a *app) transcribe(ctx context.Context, name, variant string) (_ []quality.Transcript, eos []int32, err error) {
	bar := a.newProgress()
	defer bar.finish()
	e, dir, m, err := a.openEngine(ctx, name, variant, bar)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = e.Shutdown() }()
	prompts, err := a.evalPrompts()
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	in, err := quality.Tokenize(tok, prompts)
	if err != nil {
		return nil, nil, err
	}
	out, err := quality.Generate(ctx, e, in, a.settings.number("tokens"), func(done, total int) {
		bar.count("continue prompts with "+m.Variant, done, total)
	})
	return out, m.EOS, err
}

// distance compares what two variants predict at every position of the reference's transcripts.
func (a *app) distance(ctx context.Context, name, variant, reference string, texts []quality.Transcript) error {
	bar := a.newProgress()
	defer bar.finish()
	var scorers []quality.Scorer
	for _, v := range []string{reference, variant} {
		e, _, _, err := a.openEngine(ctx, name, v, bar)
		if err != nil {
			return err
		}
		defer func() { _ = e.Shutdown() }()
		s, ok := e.(quality.Scorer)
		if !ok {
			return fmt.Errorf("the engine of %s:%s gives no logits of texts: --distance needs an engine that runs a real model", name, v)
		}
		scorers = append(scorers, s)
	}
	d, err := quality.Measure(ctx, scorers[0], scorers[1], texts, func(done, total int) { bar.count("compare predictions", done, total) })
	if err != nil {
		return err
	}
	bar.finish()
	if err := a.print(distanceTable(d)); err != nil {
		return err
	}
	missed := d.Fails(quality.Gates{MeanKL: *a.float("max-kl"), SameTop: *a.float("min-top"), Perplexity: *a.float("max-perplexity")})
	if len(missed) > 0 {
		return coded{fmt.Errorf("quality: %s", strings.Join(missed, "; ")), exitCheck}
	}
	return nil
}

func distanceTable(d quality.Distance) table {
	t := table{head: []string{"KIND", "MEAN KL"}, value: d}
	for _, kind := range slices.Sorted(maps.Keys(d.KL)) {
		t.rows = append(t.rows, []string{kind, fmt.Sprintf("%.4f", d.KL[kind])})
	}
	return table{head: t.head, value: d, rows: append(t.rows,
		[]string{"all", fmt.Sprintf("%.4f, worst of 1,000: %.3f", d.MeanKL, d.TailKL)},
		[]string{"same likeliest token", fmt.Sprintf("%.2f %% of %d", 100*d.SameTop, d.Positions)},
		[]string{"perplexity", fmt.Sprintf("%.3f, reference %.3f (%+.2f %%)", d.Perplexity, d.ReferencePerplexity, 100*d.Growth())})}
}

func (a *app) evalPrompts() (out []quality.Prompt, err error) {
	every := a.settings.number("every")
	if every < 1 {
		return nil, usageError{fmt.Errorf("--every is %d, must be at least 1", every)}
	}
	prompts, err := quality.Prompts()
	for i := 0; i < len(prompts); i += every {
		out = append(out, prompts[i])
	}
	return out, err
}

func readTranscripts(path string) ([]quality.Transcript, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, coded{err, exitNotFound}
	}
	defer func() { _ = f.Close() }()
	return quality.Read(f)
}

func reportTable(r quality.Report) table {
	t := table{head: []string{"KIND", "PROMPTS", "UP TO NEAR TIE", "TO THE END"}, value: r}
	for _, k := range append(r.Kinds, quality.Kind{Kind: "all", Prompts: r.Prompts, Decided: r.Decided, Same: r.Same}) {
		t.rows = append(t.rows, []string{k.Kind, fmt.Sprint(k.Prompts), share(k.Decided, k.Prompts), share(k.Same, k.Prompts)})
	}
	return t
}

func share(n, of int) string {
	return fmt.Sprintf("%d (%.0f %%)", n, 100*float64(n)/float64(max(of, 1)))
}
