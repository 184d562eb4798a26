package cli

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// settings are the values of one command's flags after flags, environment, file and defaults were
// merged, in this order, each with the source that won.
type settings struct {
	flags  *pflag.FlagSet
	source map[string]string // flag name -> "flag", "environment PELTON_X", "file F", "default"
}

// loadSettings fills every flag that was not given from PELTON_<FLAG> and then from the file of
// --config, whose keys are the flag names; one file serves all commands, and only keys
// that no command of known has are errors.
func loadSettings(flags *pflag.FlagSet, known map[string]bool, env func(string) (string, bool)) (*settings, error) {
	s := &settings{flags: flags, source: map[string]string{}}
	path, _ := flags.GetString("config")
	if v, ok := env("PELTON_CONFIG"); ok && path == "" {
		path = v
	}
	file, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		errs = append(errs, s.fill(f, env, file, path))
		delete(file, f.Name)
	})
	for k := range file {
		if !known[k] {
			errs = append(errs, fmt.Errorf("configuration file %s: no command has a flag %q: pelton config show COMMAND lists them", path, k))
		}
	}
	return s, errors.Join(errs...)
}

func (s *settings) fill(f *pflag.Flag, env func(string) (string, bool), file map[string][]string, path string) error {
	if f.Changed {
		s.source[f.Name] = "flag"
		return nil
	}
	name := envName(f.Name)
	if v, ok := env(name); ok {
		s.source[f.Name] = "environment " + name
		return s.set(f, []string{v}, name)
	}
	if v, ok := file[f.Name]; ok {
		s.source[f.Name] = "file " + path
		return s.set(f, v, path)
	}
	s.source[f.Name] = "default"
	return nil
}

func (s *settings) set(f *pflag.Flag, values []string, where string) error {
	for _, v := range values {
		if err := f.Value.Set(v); err != nil {
			return fmt.Errorf("%s: %q is not a valid %s: %w", where, v, f.Name, err)
		}
	}
	return nil
}

func readConfig(path string) (map[string][]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	var raw map[string]any
	if err := yaml.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	out := map[string][]string{}
	for k, v := range raw {
		switch v := v.(type) {
		case nil: // a key without a value
			return nil, fmt.Errorf("configuration file %s: %s has no value: give it one, or leave the line out", path, k)
		case []any:
			for _, e := range v {
				out[k] = append(out[k], fmt.Sprint(e))
			}
		default:
			out[k] = []string{fmt.Sprint(v)}
		}
	}
	return out, nil
}

var userinfo = regexp.MustCompile(`(://)[^/@,\s]+@`)

// redacted is text without the passwords and tokens in its URLs.
func redacted(text string) string { return userinfo.ReplaceAllString(text, "${1}xxxxx@") }

func envName(flag string) string {
	return "PELTON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// origin is where a value was given, for errors about it.
func (s *settings) origin(name string) string {
	if source := s.source[name]; source != "flag" {
		return strings.TrimPrefix(source, "environment ")
	}
	return "--" + name
}

func (s *settings) text(name string) string {
	if f := s.flags.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

func (s *settings) list(name string) []string {
	if v, ok := s.flags.Lookup(name).Value.(pflag.SliceValue); ok {
		return v.GetSlice()
	}
	return nil
}

func (s *settings) number(name string) int {
	n, _ := strconv.Atoi(s.text(name))
	return n
}

func (s *settings) duration(name string) time.Duration {
	d, _ := time.ParseDuration(s.text(name))
	return d
}

func (s *settings) yes(name string) bool { return s.text(name) == "true" }

func (s *settings) names() []string {
	var names []string
	s.flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	sort.Strings(names)
	return names
}
