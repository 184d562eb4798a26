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
	for i, raw := range list {
		n, err := parseNormal(raw)
		if err != nil {
			return fmt.Errorf("normalizer %d: %w", i, err)
		}
		if n != nil {
			t.normal = append(t.normal, n)
		}
	}
	return checkNormalized(f, t.normal)
}

func parseNormal(raw json.RawMessage) (normalizer, error) {
	p, err := part(raw)
	if err != nil {
		return nil, err
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
		return nil, nil
	case "NFC":
		return form(norm.NFC), nil
	case "NFKC":
		return form(norm.NFKC), nil
	case "Prepend":
		return func(s string) string { return p.Prepend + s }, nil
	case "Replace":
		return parseReplace(&p)
	}
	return nil, fmt.Errorf("%.*q: %w (NFC, NFKC, Prepend and Replace are)", maxPartErrors, p.Type, ErrUnsupported)
}

func parseReplace(p *partJSON) (normalizer, error) {
	switch {
	case p.Pattern.String != nil && *p.Pattern.String != "":
		r := strings.NewReplacer(*p.Pattern.String, p.Content)
		return r.Replace, nil
	case p.Pattern.Regex != nil:
		text, err := translate(*p.Pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("Replace of %.*q: %w: %w", maxPartErrors, *p.Pattern.Regex, err, ErrUnsupported)
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("Replace of %.*q: %w: %w", maxPartErrors, *p.Pattern.Regex, err, ErrUnsupported)
		}
		return func(s string) string { return re.ReplaceAllLiteralString(s, p.Content) }, nil
	}
	return nil, fmt.Errorf("Replace without a pattern: %w", ErrUnsupported)
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
