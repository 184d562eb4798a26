package siege

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/ops/auth"
)

const tenant = "default"

// producer is a client whose credentials are good and whose messages are not.
type producer struct {
	nc      *nats.Conn
	inbox   string // a reply subject of its own for each message, below it: the broker lets one answer through
	answers *nats.Subscription
	sent    int
}

func connect(t *testing.T, url, data string) *producer {
	t.Helper()
	keys, err := auth.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := client.Connect(url, nats.UserCredentials(keys.Creds(auth.Producer)), nats.RootCAs(auth.CertsIn(data).CA), client.Inbox(tenant))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := &producer{nc: nc, inbox: nc.NewInbox()}
	if p.answers, err = nc.SubscribeSync(p.inbox + ".*"); err != nil {
		t.Fatal(err)
	}
	return p
}

// flood sends n damaged jobs and cancels and reads an answer to each.
func (p *producer) flood(rng *rand.Rand, n int) error {
	for range n {
		to, data := subject.Submit(tenant), damaged(rng)
		if rng.IntN(8) == 0 {
			to, data = subject.Cancel(tenant, fmt.Sprintf("\x00*.>%d", rng.Int())), nil
		}
		p.sent++
		if err := p.nc.PublishRequest(to, fmt.Sprint(p.inbox, ".", p.sent), data); err != nil {
			return err
		}
	}
	for i := range n {
		m, err := p.answers.NextMsg(patience)
		if err != nil {
			return fmt.Errorf("answer %d of %d: %w", i, n, err)
		}
		var a contracts.Answer
		if err := contracts.Decode(m.Data, &a); err != nil || a.Outcome == "" {
			return fmt.Errorf("answer %q: %w", m.Data, err)
		}
		if a.Code == contracts.CodeInternal {
			return fmt.Errorf("answer: %+v", a)
		}
	}
	return nil
}

// damaged is a job that something happened to.
func damaged(rng *rand.Rand) []byte {
	most := 1 + rng.IntN(20)
	job := &contracts.Job{V: contracts.Version, ID: fmt.Sprint("siege-", rng.Uint64()), Model: model, Kind: contracts.KindText, Prompt: "hello", Params: contracts.Params{MaxTokens: &most},
		Labels: map[string]string{"a": "b"}, Class: contracts.P3, Submitted: time.Now().UnixMilli()}
	data, _ := contracts.Encode(job)
	switch rng.IntN(8) {
	case 0: // cut
		return data[:rng.IntN(len(data))]
	case 1: // bits that flipped
		for range 1 + rng.IntN(8) {
			data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
		}
		return data
	case 2: // noise
		for i := range data {
			data[i] = byte(rng.IntN(256))
		}
		return data
	case 3: // deep
		return bytes.Repeat([]byte{0x91}, 1+rng.IntN(100_000))
	case 4: // an array, a map or a string said to be of four billion elements
		return binary.BigEndian.AppendUint32([]byte{[]byte{0xdd, 0xdf, 0xdb, 0xc6}[rng.IntN(4)]}, 0xffffffff)
	case 5: // a part twice, or in another place
		at, to := rng.IntN(len(data)), rng.IntN(len(data))
		return append(bytes.Clone(data[:max(at, to)]), data[min(at, to):]...)
	case 6: // trailing data
		return append(data, data...)
	}
	job.V, job.Model = rng.Int(), string([]byte{byte(rng.IntN(256)), 0, 0xff})
	data, _ = contracts.Encode(job)
	return data
}
