// Package tokenizer turns text into token ids and back, and renders chats with the model's template.
//
// Previous step of the walk: runtime/sampler picks a token id (on the way out), the dispatcher's intake
// counts a prompt's tokens (on the way in). Next step: worker/emit sends the text on.
//
// It reads Hugging Face tokenizer.json files that hold a BPE, byte-level or in SentencePiece's style with
// byte fallback: the pairs are merged as the reference implementation (PyPI tokenizers) does, token for
// token; a part of the file that this
// package does not implement is an error that names it, never a silent difference. Chat templates are
// Jinja, run in a sandbox (see [Tokenizer.Chat]).
//
// Special tokens are never read out of text: [Tokenizer.Encode] treats "<|im_end|>" as eleven letters
// and signs, and in a chat only those that the template itself writes become special. Added tokens
// that the file does not mark as special are matched in text, as the reference does.
//
// The package does no I/O but [Load], starts no goroutine and knows nothing of models' weights. A
// [Tokenizer] is immutable and safe for concurrent use; a [Decoder] belongs to one
// sequence.
package tokenizer
