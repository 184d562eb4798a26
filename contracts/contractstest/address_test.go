package contractstest

import (
	"net"
	"testing"
)

// TestAddress: who asks for any port is never given one that is kept, neither to listen nor to dial from; who asks for
// it by number can listen there, again and again, beside connections that have ended there.
func TestAddress(t *testing.T) {
	t.Parallel()
	kept := map[string]bool{}
	for range 200 {
		kept[Address(t)] = true
	}
	if len(kept) != 200 {
		t.Errorf("%d addresses, want 200", len(kept))
	}
	for address := range kept {
		for range 2 {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			in, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_, _, _ = in.Close(), c.Close(), closed(l)
		}
	}
	for range 3000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if kept[l.Addr().String()] {
			t.Fatalf("%s was given away", l.Addr())
		}
		_ = l.Close()
	}
}
