package batch

// mostGuesses is the most tokens that are guessed for one sequence: later ones are seldom right.
const mostGuesses = 7

// Guess says which tokens, at most n, may follow a text: those that followed its last two when they stood
// there before, the newest time. It is a part of text, empty when they did not. Pure.
func Guess(text []int32, n int) []int32 {
	last := len(text) - 1
	if last < 2 || n <= 0 {
		return nil
	}
	for i := last - 1; i > 0; i-- {
		if text[i] == text[last] && text[i-1] == text[last-1] {
			return text[i+1 : min(i+1+n, last+1)]
		}
	}
	return nil
}
