package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTime bounds the check: a process that cannot answer within it is not well.
const healthTime = 5 * time.Second

// healthCommand is what containers without a shell check themselves with.
func (a *app) healthCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "health [URL]", Short: "Tell whether a process of the fleet answers", Args: cobra.MaximumNArgs(1),
		Long: `health asks the health path of a dispatcher, a worker (--http) or an up, and exits with 0 when it answers 200,
with 5 when it does not. URL may have a path: /livez (the default) says that the process runs, /readyz that
it can serve jobs now.`,
		Example: example("pelton health", "pelton health https://localhost:8080/readyz --tls-ca tls/ca.pem"),
		RunE: func(cmd *cobra.Command, args []string) error {
			url := "http://127.0.0.1:8080"
			if len(args) > 0 {
				url = args[0]
			}
			if _, rest, _ := strings.Cut(url, "://"); !strings.Contains(rest, "/") {
				url += "/livez"
			}
			return a.health(cmd.Context(), url)
		},
	}
	c.Flags().String("tls-ca", "", "`file` with the certificate authority of the server")
	return c
}

func (a *app) health(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usageError{err}
	}
	client, err := a.httpClient()
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return coded{fmt.Errorf("%w: is it running?", err), exitUnavailable}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return coded{fmt.Errorf("%s answers %s: %s", url, resp.Status, strings.TrimSpace(string(body))), exitUnavailable}
	}
	fmt.Fprintln(a.out, "ok")
	return nil
}
