package dispatcher_test

import (
	"fmt"
	"testing"

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
	has := func(n int, doors ...*dispatcher.Dispatcher) {
		t.Helper()
		for _, d := range doors {
			waitFor(t, fmt.Sprint(n, " jobs to be known"), func() bool { return d.Uses(tenant).Jobs == n })
		}
	}
	n := 0
	fill := func(doors ...*dispatcher.Dispatcher) {
		t.Helper()
		for i := range most {
			if _, err := doors[i%len(doors)].Submit(ctx, textJob(id(n), "abc")); err != nil {
				t.Fatal(err)
			}
			n++
			has(i+1, doors...)
		}
	}
	full := func(doors ...*dispatcher.Dispatcher) {
		t.Helper()
		for _, d := range doors {
			_, err := d.Submit(ctx, textJob("more", "abc"))
			wantCode(t, err, contracts.CodeQuotaExceeded)
		}
	}
	fill(first, second)
	full(first, second)
	stop()
	first, _ = startDispatcher(t, limited(b, quota.Limits{Concurrent: most}))
	has(most, first, second)
	full(first, second)
	w := startWorker(t, b.Conn(), "w", nil)
	has(0, first, second)
	w.stop()
	fill(second, first)
	full(first, second)
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
	for _, d := range []*dispatcher.Dispatcher{first, second} {
		waitFor(t, "all to have ended", func() bool { return d.Uses(tenant).Jobs == 0 })
	}
	if err := submit(second, "day", "fifth"); err != nil { // 95 of 100
		t.Fatal(err)
	}
	for i, d := range []*dispatcher.Dispatcher{first, second, first, second} {
		if err := submit(d, tenant, fmt.Sprint("b", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range []*dispatcher.Dispatcher{first, second} {
		waitFor(t, "four jobs and 95 tokens", func() bool { return d.Uses(tenant).Jobs == 4 && d.Uses("day").Today == 95 })
		wantCode(t, submit(d, tenant, fmt.Sprint("c", i)), contracts.CodeQuotaExceeded)
		wantCode(t, submit(d, "day", fmt.Sprint("d", i)), contracts.CodeQuotaExceeded)
	}
}
