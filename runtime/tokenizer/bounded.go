package tokenizer

// Bounded is a Tokenizer for those who want no more than so many tokens. What has more costs hardly more than what
// has as many. Safe for concurrent use.
type Bounded struct {
	t    *Tokenizer
	most int
}

// Within is t for texts of at most so many tokens.
func (t *Tokenizer) Within(most int) Bounded { return Bounded{t, most} }

// Encode is the Tokenizer's for a text of at most so many tokens; of another one it returns more than those, and
// not all.
func (b Bounded) Encode(text string) []int32 {
	return b.t.encode(nil, text, b.most)
}

// Chat is the Tokenizer's, with the bound of Encode.
func (b Bounded) Chat(messages []Message, addGenerationPrompt bool) ([]int32, error) {
	return b.t.chatOf(messages, addGenerationPrompt, b.most)
}
