package session

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// kernelClass names the family of matrix kernels that ONNX Runtime chooses on this processor. Engines
// of different classes round differently.
func kernelClass() string {
	switch runtime.GOARCH {
	case "amd64":
		return x86Class()
	case "arm64":
		return armClass()
	}
	return runtime.GOARCH
}

func x86Class() string {
	wide := cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
	switch {
	case wide && cpu.X86.HasAVX512VNNI:
		return "avx512vnni"
	case wide:
		return "avx512"
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasAVXVNNI:
		return "avx2vnni"
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA:
		return "avx2"
	}
	return "sse"
}

func armClass() string {
	switch {
	case runtime.GOOS == "darwin", cpu.ARM64.HasASIMDDP && !cpu.ARM64.HasI8MM:
		return "neon-dot"
	case cpu.ARM64.HasI8MM:
		return "neon-i8mm"
	}
	return "neon"
}
