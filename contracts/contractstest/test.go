package contractstest

import (
	"log"
	"os"
	"slices"
	"sync"
)

// T is what this package needs of a test; *testing.T, *testing.B and [Standalone] are such.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// Program is a T for programs and examples, which have no test: failures end the process.
type Program struct {
	mu   sync.Mutex
	ends []func()
}

// Standalone makes a T for a program. Call End when what was started with it is no longer needed.
func Standalone() *Program { return &Program{} }

// End runs the cleanups, the last one first.
func (p *Program) End() {
	p.mu.Lock()
	ends := p.ends
	p.ends = nil
	p.mu.Unlock()
	for _, end := range slices.Backward(ends) {
		end()
	}
}

// Helper does nothing.
func (p *Program) Helper() {}

// Errorf ends the process with a message.
func (p *Program) Errorf(format string, args ...any) { log.Fatalf(format, args...) }

// Fatalf ends the process with a message.
func (p *Program) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

// Cleanup makes End run f.
func (p *Program) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, f)
}

// TempDir is a new folder that End removes.
func (p *Program) TempDir() string {
	dir, err := os.MkdirTemp("", "pelton-")
	if err != nil {
		log.Fatal(err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
