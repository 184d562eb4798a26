package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) docsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "docs FOLDER", Short: "Write man pages and Markdown of all commands", Args: cobra.ExactArgs(1),
		Example: example("pelton docs /usr/local/share/pelton && man -M /usr/local/share/pelton pelton-up", "pelton docs build/docs --date 2026-11-28"),
		Long: `docs writes what --help says as FOLDER/man1/pelton-COMMAND.1 and FOLDER/markdown/pelton-COMMAND.md. The same version
writes the same files anywhere: no date is in them but that of --date, and folders of whoever runs it are named by
their variables.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			date := a.settings.text("date")
			if _, err := time.Parse(time.DateOnly, date); date != "" && err != nil {
				return usageError{fmt.Errorf("--date %q: it must be like 2026-11-28", date)}
			}
			return a.writeDocs(cmd.Root(), args[0], date)
		},
	}
	c.Flags().String("date", "", "`date` of the man pages, such as 2026-11-28; none when empty")
	return c
}

func (a *app) writeDocs(root *cobra.Command, folder, date string) error {
	for _, dir := range []string{"man1", "markdown"} {
		if err := os.MkdirAll(filepath.Join(folder, dir), 0o777); err != nil {
			return err
		}
	}
	pages := withCommands(root)
	for _, c := range pages {
		c.InitDefaultHelpFlag()
		c.Flags().VisitAll(nameFolders)
		c.PersistentFlags().VisitAll(nameFolders)
	}
	for _, c := range pages {
		for path, text := range map[string]string{filepath.Join("man1", pageOf(c)+".1"): manPage(c, date), filepath.Join("markdown", pageOf(c)+".md"): markdownPage(c)} {
			if err := os.WriteFile(filepath.Join(folder, path), []byte(text), 0o666); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(a.err, "%d pages in %s and %s\n", len(pages), filepath.Join(folder, "man1"), filepath.Join(folder, "markdown"))
	return nil
}

// withCommands is c and all commands below it.
func withCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range below(c) {
		all = append(all, withCommands(sub)...)
	}
	return all
}

// below are the commands of c that its help lists.
func below(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(sub *cobra.Command) bool { return !sub.IsAvailableCommand() })
}

// nameFolders says a flag's default by the variable that it comes from.
func nameFolders(f *pflag.Flag) {
	for _, name := range []string{"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"} {
		if v := os.Getenv(name); v != "" {
			f.DefValue = strings.ReplaceAll(f.DefValue, v, "$"+name)
		}
	}
}

func pageOf(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// described is the long text of a command.
func described(c *cobra.Command) string {
	if c.Long == "" {
		return c.Short + "."
	}
	return c.Long
}

// block is a paragraph, or lines that stand as they are.
type block struct {
	lines []string
	as    bool // as they are
}

// blocks are the paragraphs of a help text, and its indented lines.
func blocks(text string) (out []block) {
	fresh := true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.TrimSpace(line) == "" {
			fresh = true
			continue
		}
		if as := line[0] == ' ' || line[0] == '\t'; fresh || out[len(out)-1].as != as {
			out = append(out, block{as: as})
		}
		fresh = false
		last := &out[len(out)-1]
		last.lines = append(last.lines, line)
	}
	return out
}

// roff is text that means itself in a man page.
func roff(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case i == 0 && (r == '.' || r == '\''): // or the line is a command
			b.WriteString(`\&` + string(r))
		case r > unicode.MaxASCII:
			_, _ = fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// manPage is a command's page for man. Without a date it says none, where man would show its own.
func manPage(c *cobra.Command, date string) string {
	var b strings.Builder
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	text := func(of string) {
		for i, part := range blocks(of) {
			if i > 0 {
				say(".PP")
			}
			if part.as {
				say(".nf")
			}
			for _, line := range part.lines {
				say("%s", roff(line))
			}
			if part.as {
				say(".fi")
			}
		}
	}
	options := func(title string, flags *pflag.FlagSet) {
		if !flags.HasAvailableFlags() {
			return
		}
		say(".SH %s", title)
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Deprecated != "" {
				return
			}
			value, usage := pflag.UnquoteUsage(f)
			head := "\\fB" + roff("--"+f.Name) + "\\fR"
			if f.Shorthand != "" {
				head = "\\fB" + roff("-"+f.Shorthand) + "\\fR, " + head
			}
			if value != "" {
				head += " \\fI" + roff(value) + "\\fR"
			}
			if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
				usage += " (default " + f.DefValue + ")"
			}
			say(".TP\n%s\n%s", head, roff(usage))
		})
	}
	say(`.TH "%s" 1 "%s" "pelton %s" "Pelton"`, roff(strings.ToUpper(pageOf(c))), date, roff(version()))
	say(".SH NAME\n%s \\- %s", roff(pageOf(c)), roff(c.Short))
	say(".SH SYNOPSIS\n\\fB%s\\fR", roff(c.UseLine()))
	say(".SH DESCRIPTION")
	text(described(c))
	if len(below(c)) > 0 {
		say(".SH COMMANDS")
	}
	for _, sub := range below(c) {
		say(".TP\n\\fB%s\\fR(1)\n%s", roff(pageOf(sub)), roff(sub.Short))
	}
	options("OPTIONS", c.NonInheritedFlags())
	options("OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if c.Example != "" {
		say(".SH EXAMPLES")
		text(c.Example)
	}
	if p := c.Parent(); p != nil {
		say(".SH SEE ALSO\n\\fB%s\\fR(1)", roff(pageOf(p)))
	}
	return b.String()
}

// markdown is text that means itself in Markdown.
var markdown = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "|", `\|`, "#", `\#`)

// markdownPage is a command's page in Markdown.
func markdownPage(c *cobra.Command) string {
	var b strings.Builder
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	as := func(title, text string) {
		if text != "" {
			say("%s```\n%s\n```\n", title, strings.TrimRight(text, "\n"))
		}
	}
	link := func(to *cobra.Command) {
		say("- [%s](%s.md): %s", to.CommandPath(), pageOf(to), markdown.Replace(to.Short))
	}
	say("# %s\n\n%s.\n", c.CommandPath(), markdown.Replace(c.Short))
	as("", c.UseLine())
	if c.Long != "" {
		for _, part := range blocks(c.Long) {
			if lines := strings.Join(part.lines, "\n"); part.as {
				as("", lines)
			} else {
				say("%s\n", markdown.Replace(lines))
			}
		}
	}
	if len(below(c)) > 0 {
		say("## Commands\n")
		for _, sub := range below(c) {
			link(sub)
		}
		say("")
	}
	as("## Options\n\n", c.NonInheritedFlags().FlagUsages())
	as("## Options of all commands\n\n", c.InheritedFlags().FlagUsages())
	as("## Examples\n\n", c.Example)
	if p := c.Parent(); p != nil {
		say("## See also\n")
		link(p)
	}
	return b.String()
}
