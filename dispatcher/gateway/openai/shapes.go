package openai

// Reply is a completion, whole or one chunk of it, of chats and of texts. Members that OpenAI requires
// but allows to be null are always written.
type Reply struct {
	ID          string   `json:"id"`
	Object      string   `json:"object"`
	Created     int64    `json:"created"` // Unix seconds
	Model       string   `json:"model"`
	Choices     []Choice `json:"choices"`
	Usage       *Usage   `json:"usage,omitempty"`
	ServiceTier string   `json:"service_tier,omitempty"`
	Fingerprint string   `json:"system_fingerprint"`
}

// streamed is a chunk whose usage is written even when it is null.
type streamed struct {
	Reply
	Usage *Usage `json:"usage"`
}

// Choice is one choice of a [Reply]: of Message, Delta and Text one is set.
type Choice struct {
	Index    int      `json:"index"`
	Message  *Message `json:"message,omitempty"`
	Delta    *Delta   `json:"delta,omitempty"`
	Text     *string  `json:"text,omitempty"`
	Logprobs any      `json:"logprobs"` // *ChatLogprobs, *TextLogprobs or nil
	Finish   *string  `json:"finish_reason"`
}

// Message is the whole answer of a chat's choice.
type Message struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

// Delta is a piece of a chat's choice; the first one of a choice has the role.
type Delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// Usage counts tokens over all choices of all prompts.
type Usage struct {
	PromptTokens      int           `json:"prompt_tokens"`
	CompletionTokens  int           `json:"completion_tokens"`
	TotalTokens       int           `json:"total_tokens"`
	PromptDetails     PromptDetails `json:"prompt_tokens_details"`
	CompletionDetails OutputDetails `json:"completion_tokens_details"`
}

// PromptDetails splits the prompt tokens.
type PromptDetails struct {
	CachedTokens int `json:"cached_tokens"`
	AudioTokens  int `json:"audio_tokens"`
}

// OutputDetails splits the completion tokens.
type OutputDetails struct {
	ReasoningTokens          int `json:"reasoning_tokens"`
	AudioTokens              int `json:"audio_tokens"`
	AcceptedPredictionTokens int `json:"accepted_prediction_tokens"`
	RejectedPredictionTokens int `json:"rejected_prediction_tokens"`
}

// Model is one entry of GET /v1/models; MaxModelLen is vLLM's name for the context length in tokens.
type Model struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"` // Unix seconds
	OwnedBy     string `json:"owned_by"`
	MaxModelLen int    `json:"max_model_len,omitempty"`
}

// List is a list of anything; Data is never null.
type List[T any] struct {
	Object string `json:"object"`
	Data   []T    `json:"data"`
}

// NewList is data as a list object.
func NewList[T any](data []T) List[T] {
	if data == nil {
		data = []T{}
	}
	return List[T]{Object: "list", Data: data}
}
