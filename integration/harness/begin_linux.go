package harness

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// starter is one thread that starts processes and ends with this process alone: the kernel kills them when the thread
// that started them ends.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Begin is cmd.Start for a process that shall not outlive this one, however this one ends.
func Begin(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error)
	starter() <- func() { done <- cmd.Start() }
	return <-done
}
