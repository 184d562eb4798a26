//go:build cgo && (linux || darwin)

package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pelton-run/pelton/runtime/onnx/kernels"
)

// library is the ONNX Runtime that this process has loaded. It is loaded once and never unloaded: its
// threads and thread-local data do not survive that, and a process needs only one.
var library struct {
	mu   sync.Mutex
	path string // "" until loaded
}

// Load loads the library at path unless it is loaded already.
func Load(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		var info os.FileInfo
		if info, err = os.Stat(real); err == nil && !info.Mode().IsRegular() {
			err = errors.New("it is no file")
		}
	}
	if err != nil {
		return fmt.Errorf("onnx runtime library %s: %w: set PELTON_ORT_LIB to the path of libonnxruntime.so, version 1.24 or newer", path, err)
	}
	library.mu.Lock()
	defer library.mu.Unlock()
	if library.path != "" {
		if library.path != real {
			return fmt.Errorf("onnx runtime library %s: this process runs on %s already and can have only one", real, library.path)
		}
		return nil
	}
	ort.SetSharedLibraryPath(real)
	// Failed runs come back as errors, so the library need not print them as well.
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("onnx runtime library %s does not load: %w: it must be version 1.24 or newer for this system; set PELTON_ORT_LIB to the path of one that is", real, err)
	}
	library.path = real
	return nil
}

// New loads the graph with the settings under which the kernels' results are reproducible.
func New(graph string, inputs, outputs []string, c Config) (*ort.DynamicAdvancedSession, error) {
	return NewAt(ort.GraphOptimizationLevelEnableAll, graph, inputs, outputs, c)
}

// NewAt is New with another level of optimization.
func NewAt(level ort.GraphOptimizationLevel, graph string, inputs, outputs []string, c Config) (_ *ort.DynamicAdvancedSession, err error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.Destroy()) }()
	err = errors.Join(
		o.SetIntraOpNumThreads(c.Threads),
		o.SetInterOpNumThreads(1),
		o.SetExecutionMode(ort.ExecutionModeSequential),
		o.SetGraphOptimizationLevel(level),
		o.SetLogSeverityLevel(ort.LoggingLevelFatal),
	)
	spin, stop := "1", "0"
	switch c.Spin {
	case SpinAuto:
		stop = "1"
	case SpinOff:
		spin = "0"
	}
	err = errors.Join(err,
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", spin),
		o.AddSessionConfigEntry("session.force_spinning_stop", stop),
	)
	if err != nil {
		return nil, fmt.Errorf("session options: %w", err)
	}
	if err := addProvider(o, c.Device, c.Captured); err != nil {
		return nil, err
	}
	if err := kernels.Add(c.Library, o); err != nil {
		return nil, err
	}
	s, err := ort.NewDynamicAdvancedSession(graph, inputs, outputs, o)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", graph, err)
	}
	return s, nil
}
