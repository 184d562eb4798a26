package admin_test

import (
	"context"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/contractstest"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/contracts/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds the waits for what must happen.
const patience = time.Minute

// site is a broker of its own.
type site struct {
	t      *testing.T
	nc     *nats.Conn
	js     jetstream.JetStream
	broker *contractstest.Broker
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, broker: contractstest.StartBroker(t, nil)}
	s.nc = s.broker.Conn()
	var err error
	s.js, err = jetstream.New(s.nc)
	s.must(err)
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// fleet makes the layout of a fleet and puts jobs, records and dead letters into it.
func (s *site) fleet(jobs int) *site {
	s.t.Helper()
	_, err := topology.Ensure(s.ctx(), s.js, topology.Config{}, "m")
	s.must(err)
	for i := range jobs {
		id := strconv.Itoa(i)
		s.publish(subject.Job{Model: "m", Class: contracts.P2, Size: contracts.SizeS, Tenant: "t", Job: id}.String(), make([]byte, 2000))
		s.record(id, false)
		s.publish(subject.Dead("t", id), []byte("dead "+id))
	}
	return s
}

func (s *site) publish(subj string, data []byte) {
	s.t.Helper()
	m := nats.NewMsg(subj)
	m.Data = data
	m.Header.Set("Note", subj)
	_, err := s.js.PublishMsg(s.ctx(), m)
	s.must(err)
}

// record writes a record of a job to OUT.
func (s *site) record(job string, final bool) {
	s.t.Helper()
	c := &contracts.Chunk{V: contracts.Version, Job: job, Fence: 1, Tokens: []int32{7}}
	if final {
		c.Usage = &contracts.Usage{}
	}
	data, err := contracts.Encode(c)
	s.must(err)
	s.publish(subject.Out("t", job), data)
}

// kept is a message as a stream keeps it.
type kept struct {
	Seq     uint64
	Subject string
	Header  nats.Header
	Data    string
	Time    time.Time
}

// messages are all messages of a stream.
func (s *site) messages(stream string) (list []kept) {
	s.t.Helper()
	st, err := s.js.Stream(s.ctx(), stream)
	s.must(err)
	for seq := st.CachedInfo().State.FirstSeq; seq <= st.CachedInfo().State.LastSeq; seq++ {
		m, err := st.GetMsg(s.ctx(), seq)
		if err == nil {
			list = append(list, kept{m.Sequence, m.Subject, m.Header, string(m.Data), m.Time})
		}
	}
	return list
}

func (s *site) streams() (list []string) {
	s.t.Helper()
	l := s.js.StreamNames(s.ctx())
	for n := range l.Name() {
		list = append(list, n)
	}
	s.must(l.Err())
	return list
}

func folder(t *testing.T) string { return filepath.Join(t.TempDir(), "backup") }
