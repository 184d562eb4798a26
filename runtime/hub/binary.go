package hub

import (
	"debug/elf"
	"debug/macho"
	"fmt"
	"os"
	"slices"
)

// checkLibrary says whether path can be a shared library for the platform, from its header alone: a
// library for another processor would end the process with a message that helps nobody. A missing file
// is os.ErrNotExist.
func checkLibrary(path, goos, goarch string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", path)
	}
	var made string
	switch goos {
	case "linux":
		made, err = elfMachine(path)
	case "darwin":
		made, err = machoMachine(path, goarch)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s is no shared library: %w", path, err)
	}
	if made != goarch {
		return fmt.Errorf("%s is made for %s, this machine is %s", path, made, goarch)
	}
	return nil
}

func elfMachine(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		return "", fmt.Errorf("it is of type %s", f.Type)
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	case elf.EM_ARM:
		return "arm", nil
	}
	return f.Machine.String(), nil
}

// machoMachine names the processor of a library, want when it is among those of a universal one.
func machoMachine(path, want string) (string, error) {
	names := map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}
	if fat, err := macho.OpenFat(path); err == nil {
		defer fat.Close()
		if slices.ContainsFunc(fat.Arches, func(a macho.FatArch) bool { return names[a.Cpu] == want }) {
			return want, nil
		}
		return "other processors", nil
	}
	f, err := macho.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if name := names[f.Cpu]; name != "" {
		return name, nil
	}
	return f.Cpu.String(), nil
}
