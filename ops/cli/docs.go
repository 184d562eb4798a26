package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

func (a *app) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "docs FOLDER", Short: "Write man pages and Markdown of all commands", Args: cobra.ExactArgs(1),
		Example: example("pelton docs /usr/local/share/pelton && man -M /usr/local/share/pelton pelton-up", "SOURCE_DATE_EPOCH=1795824000 pelton docs build/docs"),
		Long: `docs writes what --help says as FOLDER/man1/pelton-COMMAND.1 and FOLDER/markdown/pelton_COMMAND.md. The same version
writes the same files anywhere, but for the month in man pages, which is that of SOURCE_DATE_EPOCH where that is set;
folders of whoever runs it are named by their variables.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.writeDocs(cmd.Root(), args[0]) },
	}
}

func (a *app) writeDocs(root *cobra.Command, folder string) error {
	prepare(root)
	man, markdown := filepath.Join(folder, "man1"), filepath.Join(folder, "markdown")
	for _, dir := range []string{man, markdown} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "pelton " + version(), Manual: "Pelton"}, man); err != nil {
		return err
	}
	if err := doc.GenMarkdownTree(root, markdown); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "pages are in %s and %s\n", man, markdown)
	return nil
}

// prepare makes pages of c, and of all below it, the same everywhere: without the date of the day, and with a flag's default
// by the variable that it comes from.
func prepare(c *cobra.Command) {
	c.DisableAutoGenTag = true
	for _, flags := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			for _, name := range []string{"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"} {
				if v := os.Getenv(name); v != "" {
					f.DefValue = strings.ReplaceAll(f.DefValue, v, "$"+name)
				}
			}
		})
	}
	for _, sub := range c.Commands() {
		prepare(sub)
	}
}
