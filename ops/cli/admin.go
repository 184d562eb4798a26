package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pelton-run/pelton/ops/admin"
	"github.com/pelton-run/pelton/runtime/hub"
)

func (a *app) adminCommand() *cobra.Command {
	c := &cobra.Command{Use: "admin", Short: "Back up, look at and repair a fleet's streams", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `admin works on the broker's streams and consumers. Where credentials have roles, it needs the provisioner's.`}
	c.AddCommand(a.adminStatus(), a.adminRepair(), a.adminBackup(), a.adminRestore())
	return c
}

func (a *app) adminBackup() *cobra.Command {
	c := &cobra.Command{
		Use: "backup DIR", Short: "Copy all streams and buckets to a folder, while the fleet runs", Args: cobra.ExactArgs(1),
		Long: `backup copies every stream with its consumers, one after the other, to DIR, which must not exist: messages,
what is delivered, configuration, with checksums. Every job that was admitted before it began is in it and
ends exactly once after a restore. A job that was admitted while it ran is in it if it waited or was done;
a dead letter that is retried meanwhile may be lost. Credentials, API keys and models are not in it.

DIR appears when all is done; until then the copies are in DIR.partial, and the same command goes on there
within an hour. DIR holds everybody's prompts and answers.`,
		Example: example("pelton admin backup /backup/$(date +%F)", "pelton admin backup b --nats tls://broker:4222 --tls-ca ca.pem --creds provisioner.creds"),
		RunE: func(cmd *cobra.Command, args []string) error {
			nc, err := connect(cmd.Context(), a.remote(), "pelton admin")
			if err != nil {
				return err
			}
			defer nc.Close()
			bar := a.newProgress()
			defer bar.finish()
			m, err := admin.Backup(cmd.Context(), nc, args[0], bar.stream("copy"))
			if err != nil {
				return unwilling(err)
			}
			bar.finish()
			t := table{head: []string{"STREAM", "MESSAGES", "CONSUMERS", "SIZE", "SHA256"}, wide: 4, value: m}
			for _, s := range m.Streams {
				t.rows = append(t.rows, []string{s.Stream, fmt.Sprint(s.Messages), fmt.Sprint(s.Consumers), size(s.Size), s.SHA256})
			}
			return a.print(t)
		},
	}
	brokerFlags(c)
	outputFlags(c)
	return c
}

func (a *app) adminRestore() *cobra.Command {
	c := &cobra.Command{
		Use: "restore DIR", Short: "Make the streams of a backup, in a broker without them", Args: cobra.ExactArgs(1),
		Long: `restore compares all checksums, then makes each stream with its messages and consumers. Stop dispatchers
and workers first; it refuses to run beside a dispatcher. It refuses streams that exist unless --replace is
given, which deletes them. Interrupted, the same command goes on. Messages older than their stream keeps
(queued jobs: a day) are not restored; it warns of them. With --check it only reads the backup.`,
		Example: example("pelton admin restore /backup/2026-11-25 --check", "pelton admin restore /backup/2026-11-25 --nats nats://new-broker:4222 --replicas 3"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.settings.yes("check") {
				return a.checkBackup(args[0])
			}
			return a.restore(cmd.Context(), args[0])
		},
	}
	brokerFlags(c)
	f := c.Flags()
	f.Bool("replace", false, "delete streams of the same names first, with all that is in them")
	f.Bool("running", false, "do not look for dispatchers that run")
	f.Bool("check", false, "only compare the checksums; asks no broker")
	f.Int("replicas", 0, "copies of each stream; 0 is as it was")
	return c
}

func (a *app) checkBackup(dir string) error {
	m, err := admin.Read(dir)
	if err != nil {
		return coded{err, exitCheck}
	}
	fmt.Fprintf(a.out, "%d streams, begun %s, all checksums are right\n", len(m.Streams), m.Begun.Format("2006-01-02 15:04:05 MST"))
	return nil
}

func (a *app) restore(ctx context.Context, dir string) error {
	nc, err := connect(ctx, a.remote(), "pelton admin")
	if err != nil {
		return err
	}
	defer nc.Close()
	bar := a.newProgress()
	defer bar.finish()
	done, err := admin.Restore(ctx, nc, dir, admin.RestoreOptions{
		Replace: a.settings.yes("replace"), Running: a.settings.yes("running"), Replicas: a.settings.number("replicas"), Progress: bar.stream("restore"),
	})
	if err != nil {
		return unwilling(err)
	}
	bar.finish()
	for _, s := range done.Kept {
		fmt.Fprintf(a.out, "kept %s\n", s)
	}
	for _, s := range done.Streams {
		fmt.Fprintf(a.out, "restored %s\n", s)
	}
	for _, s := range done.Removed {
		fmt.Fprintf(a.out, "removed %s: its job was admitted while the backup ran, and is not in it, or is too old\n", s)
	}
	for _, e := range done.Expired {
		fmt.Fprintf(a.err, "warning: %s has %d of the %d messages of the backup: those older than %v are not kept\n", e.Stream, e.Messages, e.Copied, e.MaxAge)
	}
	return nil
}

// unwilling gives what admin will not do without being told so its exit code.
func unwilling(err error) error {
	if errors.Is(err, admin.ErrExists) || errors.Is(err, admin.ErrRunning) {
		return coded{err, exitRefused}
	}
	return err
}

// stream reports the progress of one stream after the other.
func (p *progress) stream(verb string) admin.Progress {
	return func(name string, done, total int64) {
		p.report(hub.Event{Stage: verb + " " + name, Done: done, Total: total})
	}
}
