package dispatcher_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/dispatcher"
	"github.com/pelton-run/pelton/dispatcher/quota"
)

// limited is a dispatcher's configuration with limits of one tenant.
func limited(b *contractstest.Broker, l quota.Limits) dispatcher.Config {
	cfg := testConfig(b.Conn())
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: l}
	return cfg
}

// TestConcurrentAtAllDoors: however many dispatchers there are, and whatever becomes of one, a tenant has as many jobs
// at once as it may, and no fewer.
func TestConcurrentAtAllDoors(t *testing.T) {
	t.Parallel()
	const most = 6
	b := contractstest.StartBroker(t, nil)
	ctx := testContext(t)
	first, stop := startDispatcher(t, limited(b, quota.Limits{Concurrent: most}))
	second, _ := startDispatcher(t, limited(b, quota.Limits{Concurrent: most}))
	n := 0
	fill := func(doors ...*dispatcher.Dispatcher) { // until every door refuses
		t.Helper()
		for refusals := 0; refusals < 3*len(doors); n++ { // a door may not have heard yet that a job ended
			_, err := doors[n%len(doors)].Submit(ctx, textJob(id(n), "abc"))
			switch contracts.CodeOf(err) {
			case "":
				refusals = 0
			case contracts.CodeQuotaExceeded:
				refusals++
			default:
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond) // the doors tell each other
		}
	}
	queued := func(want uint64) {
		t.Helper()
		if got := leftInQueue(t, b.Conn()); got != want {
			t.Errorf("%d jobs are queued, want %d", got, want)
		}
	}
	fill(first, second)
	queued(most)
	stop()
	first, _ = startDispatcher(t, limited(b, quota.Limits{Concurrent: most}))
	waitFor(t, "the queue to be found", func() bool {
		_, err := first.Submit(ctx, textJob("more", "abc"))
		if err == nil {
			_, err = first.Cancel(ctx, tenant, "more")
			return err != nil
		}
		return contracts.CodeOf(err) == contracts.CodeQuotaExceeded
	})
	fill(first, second)
	queued(most)
	startWorker(t, b.Conn(), "w", nil)
	waitFor(t, "all jobs to end", func() bool { return leftInQueue(t, b.Conn()) == 0 })
	for _, d := range []*dispatcher.Dispatcher{first, second} { // all of it is there again, wherever
		for i := range 2 * most {
			waitFor(t, "room", func() bool {
				_, err := d.Submit(ctx, textJob(fmt.Sprint("again", n, "-", i), "abc"))
				return err == nil
			})
		}
		n++
	}
}

// TestDayOutlastsDispatchers: what a tenant used of its day is known when all dispatchers were restarted.
func TestDayOutlastsDispatchers(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	startWorker(t, b.Conn(), "w", nil)
	ctx := testContext(t)
	run := func(d *dispatcher.Dispatcher, id string) error {
		j := textJob(id, "abc")
		j.Params.MaxTokens = ptr(40)
		_, chunks, err := d.Start(ctx, j)
		if err == nil {
			read(t, id, chunks)
		}
		return err
	}
	for i := range 2 { // one after the other, so that the second knows of the first from the broker alone
		d, stop := startDispatcher(t, limited(b, quota.Limits{Daily: 100}))
		if err := run(d, id(i)); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	d, _ := startDispatcher(t, limited(b, quota.Limits{Daily: 100}))
	wantCode(t, run(d, "third"), contracts.CodeQuotaExceeded, "used 86 of its 100")
}

// TestCutOffDispatcher: a dispatcher is cut off while its tenants are near their limits, and their jobs end meanwhile.
// When it is back nothing is given twice, and all that is free is given.
func TestCutOffDispatcher(t *testing.T) {
	t.Parallel()
	b := contractstest.StartBroker(t, nil)
	g, nc := connectGated(t, b)
	cfg := testConfig(nc)
	cfg.Overload.Quotas = map[string]quota.Limits{tenant: {Concurrent: 4}, "day": {Daily: 100}}
	first, _ := startDispatcher(t, cfg)
	cfg.Conn = b.Conn()
	second, _ := startDispatcher(t, cfg)
	ctx := testContext(t)
	submit := func(d *dispatcher.Dispatcher, of, id string) error {
		j := textJob(id, "abc")
		j.Tenant, j.Params.MaxTokens = of, ptr(16) // 19 tokens
		_, err := d.Submit(ctx, j)
		return err
	}
	for i, d := range []*dispatcher.Dispatcher{first, second, first, second} {
		for _, of := range []string{tenant, "day"} {
			if err := submit(d, of, id(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.cut(true)
	waitFor(t, "the connection to be away", func() bool { return !nc.IsConnected() })
	w := startWorker(t, b.Conn(), "w", nil)
	waitFor(t, "all jobs to end", func() bool { return leftInQueue(t, b.Conn()) == 0 })
	w.stop()
	g.cut(false)
	waitFor(t, "the dispatcher to be back", first.Ready)
	if err := submit(second, "day", "fifth"); err != nil { // 95 of 100
		t.Fatal(err)
	}
	waitFor(t, "room at the one that was cut off", func() bool { return submit(first, tenant, "a") == nil })
	for i, d := range []*dispatcher.Dispatcher{second, first, second} {
		waitFor(t, "room", func() bool { return submit(d, tenant, fmt.Sprint("b", i)) == nil })
	}
	time.Sleep(time.Second) // they tell each other
	for i, d := range []*dispatcher.Dispatcher{first, second} {
		waitFor(t, "those that ended to be forgotten", func() bool {
			err := submit(d, tenant, fmt.Sprint("c", i))
			wantCode(t, err, contracts.CodeQuotaExceeded)
			return strings.Contains(err.Error(), " 4 jobs")
		})
		wantCode(t, submit(d, "day", fmt.Sprint("d", i)), contracts.CodeQuotaExceeded, "95 of its 100")
	}
}
