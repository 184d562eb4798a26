package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedTokens finds the tokens that are matched as a whole before the text is cut into words.
type addedTokens struct {
	ids    map[string]int32
	trie   []trieNode // trie[0] is the root
	tokens []addedToken
	inText bool // some are not special, so Encode has to look for them
}

type addedToken struct {
	id             int32
	text           string
	special        bool
	lstrip, rstrip bool // takes the white space before or after it along
}

type trieNode struct {
	next  map[byte]int32 // index of the child
	token int32          // index in tokens of the one that ends here; -1 for none
}

func newAddedTokens(tokens []addedToken) addedTokens {
	a := addedTokens{ids: make(map[string]int32, len(tokens)), trie: []trieNode{{token: -1}}, tokens: tokens}
	for i, t := range tokens {
		a.ids[t.text] = t.id
		a.inText = a.inText || !t.special
		at := int32(0)
		for k := range len(t.text) {
			child, ok := a.trie[at].next[t.text[k]]
			if !ok {
				child = int32(len(a.trie))
				a.trie = append(a.trie, trieNode{token: -1})
				if a.trie[at].next == nil {
					a.trie[at].next = map[byte]int32{}
				}
				a.trie[at].next[t.text[k]] = child
			}
			at = child
		}
		a.trie[at].token = int32(i)
	}
	return a
}

// match returns the longest added token that s begins with, or nil.
func (a *addedTokens) match(s string) *addedToken {
	at, best := int32(0), int32(-1)
	for i := range len(s) {
		child, ok := a.trie[at].next[s[i]]
		if !ok {
			break
		}
		at = child
		if t := a.trie[at].token; t >= 0 {
			best = t
		}
	}
	if best < 0 {
		return nil
	}
	return &a.tokens[best]
}

// find returns the first place in s, from byte from on, where an added token begins.
func (a *addedTokens) find(s string, from int) (at int, t *addedToken) {
	root := a.trie[0].next
	if len(root) == 0 {
		return len(s), nil
	}
	var only byte
	for only = range root {
		break
	}
	for at = from; at < len(s); at++ {
		if len(root) == 1 {
			skip := strings.IndexByte(s[at:], only)
			if skip < 0 {
				return len(s), nil
			}
			at += skip
		}
		if t := a.match(s[at:]); t != nil {
			return at, t
		}
	}
	return len(s), nil
}

// split cuts s at added tokens, leftmost first, the longest of those that begin at the same place. Text
// between them goes to text, never empty. A special token counts only if special is set; otherwise it
// stays text, as with the reference's encode_special_tokens.
func (a *addedTokens) split(s string, special bool, text func(string), token func(int32)) {
	if !special && !a.inText {
		text(s)
		return
	}
	start, from := 0, 0
	for from < len(s) {
		at, t := a.find(s, from)
		if t == nil {
			break
		}
		end := at + len(t.text)
		if t.special && !special {
			from = end
			continue
		}
		if t.lstrip {
			at = start + len(strings.TrimRightFunc(s[start:at], unicode.IsSpace))
		}
		if t.rstrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if at > start {
			text(s[start:at])
		}
		token(t.id)
		start, from = end, end
	}
	if start < len(s) {
		text(s[start:])
	}
}

// partial returns the length of the longest end of s that is a proper start of an added special token:
// the part that text after s might complete.
func (a *addedTokens) partial(s string) int {
	longest := 0
	for _, t := range a.tokens {
		longest = max(longest, len(t.text))
	}
	for at := max(0, len(s)-longest+1); at < len(s); at++ {
		node, i := int32(0), at
		for ; i < len(s); i++ {
			child, ok := a.trie[node].next[s[i]]
			if !ok {
				break
			}
			node = child
		}
		if i == len(s) && len(a.trie[node].next) > 0 && utf8.RuneStart(s[at]) {
			return len(s) - at
		}
	}
	return 0
}
