package template

import (
	"slices"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// respell spells three kinds of expression in a form that the library reads everywhere. It knows "a if c else b"
// only where nothing is around it: a list that holds something is true, so ((c) and [a] or [b])[0] has the same
// value and evaluates the same parts. It calls no method of what is in parentheses: (a).f() becomes [a][0].f(). And
// it does not find a list's first item from its end: a[-1] becomes a[-1:][0].
func respell(source string, cfg *config.Config) string {
	s := speller{source: tokens.NewLexer(source, cfg).Input, stream: tokens.LexAll(source, cfg)}
	var out strings.Builder
	for {
		switch t := s.stream.Current(); {
		case t == nil, t.Type == tokens.EOF, t.Type == tokens.Error:
			out.WriteString(s.source[s.at:])
			out.WriteByte('\n') // the lexer takes one line break off the end, and has done so already
			return out.String()
		case t.Type == tokens.VariableBegin:
			s.next()
			out.WriteString(s.list())
		case t.Type == tokens.BlockBegin:
			s.next()
			out.WriteString(s.statement())
		default:
			s.next()
		}
	}
}

// speller walks over the tokens of a source. Its methods return the source, respelled, from where the last one ended.
type speller struct {
	source string
	at     int // what lies before it was returned
	stream *tokens.Stream
	last   *tokens.Token // the one before the current one
}

func (s *speller) next() {
	s.last = s.stream.Current()
	s.stream.Next()
}

// copied is the source up to the current token.
func (s *speller) copied() string {
	t := s.stream.Current()
	if t == nil || t.Type == tokens.EOF || t.Type == tokens.Error {
		return ""
	}
	text := s.source[s.at:t.Pos]
	s.at = t.Pos
	return text
}

// skip leaves the current token out.
func (s *speller) skip() {
	s.at += len(s.stream.Current().Val)
	s.next()
}

// statement is what stands between {% and %}. In a loop's head, "if" chooses items.
func (s *speller) statement() string {
	if keyword(s.stream.Current(), "if", "elif", "set") {
		s.next()
		return s.list()
	}
	var text strings.Builder
	for t := s.stream.Current(); !ends(t); t = s.stream.Current() {
		if opens(t) {
			text.WriteString(s.group())
		} else {
			s.next()
		}
	}
	return text.String()
}

// list is expressions with commas, colons or equals signs between them.
func (s *speller) list() string {
	var text strings.Builder
	for {
		text.WriteString(s.expression())
		if !separates(s.stream.Current()) {
			return text.String()
		}
		s.next()
	}
}

// group is what stands in brackets, and these.
func (s *speller) group() string {
	open, before := s.stream.Current(), s.last
	text := s.copied()
	s.skip()
	inner := s.list()
	closing := s.stream.Current()
	if !closes(closing) {
		return text + open.Val + inner // the parser will refuse it
	}
	s.skip()
	called := closes(before) || before.Type == tokens.Name && !keyword(before, "if", "elif", "else")
	if t := s.stream.Current(); open.Type == tokens.LeftParenthesis && !called && t != nil && t.Type == tokens.Dot {
		return text + "[" + inner + "][0]"
	}
	if n, err := strconv.Atoi(strings.TrimSpace(inner)); err == nil && n < 0 && open.Type == tokens.LeftBracket && called {
		end := ""
		if n < -1 {
			end = strconv.Itoa(n + 1)
		}
		return text + "[" + strconv.Itoa(n) + ":" + end + "][0]"
	}
	return text + open.Val + inner + closing.Val
}

// expression is one, up to the token that ends it.
func (s *speller) expression() string {
	before, value, text, chosen := s.copied(), "", "", false
	for {
		t := s.stream.Current()
		switch {
		case ends(t) || closes(t) || separates(t):
			if text += s.copied(); chosen {
				text = choice(value, text, undefined)
			}
			return before + text
		case opens(t):
			text += s.group()
		case keyword(t, "if") && !chosen:
			value, text, chosen = text+s.copied(), "", true
			s.skip()
		case keyword(t, "else") && chosen:
			text += s.copied()
			s.skip()
			return before + choice(value, text, s.expression())
		default:
			s.next()
		}
	}
}

// undefined is a name that no template sets.
const undefined = "_undefined_"

func choice(value, condition, other string) string {
	for _, part := range []string{value, condition, other} {
		if strings.TrimSpace(part) == "" {
			return value + " if " // which the parser refuses
		}
	}
	return " ((" + condition + ") and [" + value + "] or [" + other + "])[0] "
}

func keyword(t *tokens.Token, names ...string) bool {
	return t != nil && t.Type == tokens.Name && slices.Contains(names, t.Val)
}

func opens(t *tokens.Token) bool {
	return t.Type == tokens.LeftParenthesis || t.Type == tokens.LeftBracket || t.Type == tokens.LeftBrace
}

func closes(t *tokens.Token) bool {
	return t != nil && (t.Type == tokens.RightParenthesis || t.Type == tokens.RightBracket || t.Type == tokens.RightBrace)
}

// separates tells whether another expression follows.
func separates(t *tokens.Token) bool {
	return t != nil && (t.Type == tokens.Comma || t.Type == tokens.Colon || t.Type == tokens.Assign)
}

// ends tells whether nothing follows in the statement.
func ends(t *tokens.Token) bool {
	return t == nil || t.Type == tokens.VariableEnd || t.Type == tokens.BlockEnd || t.Type == tokens.EOF || t.Type == tokens.Error
}
