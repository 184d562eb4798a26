package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text, never empty, before it is cut into words.
type normalizer func(s string) string

// How much all steps together may add to a text. Those of known models stay far below; a hostile file could
// make gigabytes of a short prompt.
const (
	maxGrowth  = 64 // times its bytes
	maxPrepend = 64 // bytes
)

// growth is the most that steps make of a text: factor times its bytes, and prepended ones.
type growth struct {
	factor  float64
	prepend int
}

// add counts one more step.
func (g *growth) add(step growth) error {
	g.factor *= max(1, step.factor)
	g.prepend += step.prepend
	if g.factor > maxGrowth || g.prepend > maxPrepend {
		return fmt.Errorf("it may make a text more than %d times as long, or prepend more than %d bytes: %w", maxGrowth, maxPrepend, ErrUnsupported)
	}
	return nil
}

// parseNormalizer reads the normalizer, whose parts apply one after the other.
func (t *Tokenizer) parseNormalizer(f *fileJSON) error {
	p, err := part(f.Normalizer)
	if err != nil {
		return fmt.Errorf("normalizer: %w", err)
	}
	list := []json.RawMessage{f.Normalizer}
	if p.Type == "Sequence" {
		list = p.Normalizers
	}
	if len(list) > maxStages {
		return fmt.Errorf("normalizer: %d steps, at most %d are read", len(list), maxStages)
	}
	all := growth{factor: 1}
	for i, raw := range list {
		n, more, err := parseNormal(raw)
		if err == nil {
			err = all.add(more)
		}
		if err != nil {
			return fmt.Errorf("normalizer %d: %w", i, err)
		}
		if n != nil {
			t.normal = append(t.normal, n)
		}
	}
	return checkNormalized(f, t.normal)
}

func parseNormal(raw json.RawMessage) (normalizer, growth, error) {
	p, err := part(raw)
	if err != nil {
		return nil, growth{}, err
	}
	form := func(f norm.Form) normalizer {
		return func(s string) string {
			if f.IsNormalString(s) {
				return s
			}
			return f.String(s)
		}
	}
	switch p.Type {
	case "":
		return nil, growth{}, nil
	case "NFC":
		return form(norm.NFC), growth{factor: 3}, nil // Unicode's own bounds, in UTF-8
	case "NFKC":
		return form(norm.NFKC), growth{factor: 11}, nil
	case "Prepend":
		return func(s string) string { return p.Prepend + s }, growth{prepend: len(p.Prepend)}, nil
	case "Replace":
		return parseReplace(&p)
	}
	return nil, growth{}, fmt.Errorf("%.*q: %w (NFC, NFKC, Prepend and Replace are)", maxPartErrors, p.Type, ErrUnsupported)
}

func parseReplace(p *partJSON) (normalizer, growth, error) {
	switch {
	case p.Pattern.String != nil && *p.Pattern.String != "":
		r := strings.NewReplacer(*p.Pattern.String, p.Content)
		return r.Replace, growth{factor: float64(len(p.Content)) / float64(len(*p.Pattern.String))}, nil
	case p.Pattern.Regex != nil:
		text, err := translate(*p.Pattern.Regex)
		if err != nil {
			return nil, growth{}, fmt.Errorf("Replace of %.*q: %w: %w", maxPartErrors, *p.Pattern.Regex, err, ErrUnsupported)
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, growth{}, fmt.Errorf("Replace of %.*q: %w: %w", maxPartErrors, *p.Pattern.Regex, err, ErrUnsupported)
		}
		more := growth{factor: float64(len(p.Content))}
		if re.MatchString("") { // content comes between all characters too
			more.factor++
		}
		return func(s string) string { return re.ReplaceAllLiteralString(s, p.Content) }, more, nil
	}
	return nil, growth{}, fmt.Errorf("Replace without a pattern: %w", ErrUnsupported)
}

// checkNormalized refuses added tokens that are searched in the normalized text and look different
// there: the reference then finds them where this package, which searches first, would not. Special
// tokens are never searched in text.
func checkNormalized(f *fileJSON, all []normalizer) error {
	for _, a := range f.AddedTokens {
		if !a.Normalized || a.Special || a.Content == "" {
			continue
		}
		text := a.Content
		for _, n := range all {
			text = n(text)
		}
		if text != a.Content {
			return fmt.Errorf("added token %.*q is normalized to %.*q: %w", maxPartErrors, a.Content, maxPartErrors, text, ErrUnsupported)
		}
	}
	return nil
}
