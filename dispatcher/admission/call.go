package admission

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// Port is an input or an output of a model that computes tensors; in the shape, -1 is any size.
type Port struct {
	Name  string
	Type  contracts.DataType
	Shape []int64
}

const (
	// tensorUnit is how many bytes of inputs count as one token, as the workers count them.
	tensorUnit = 4 << 10
	// recordRoom is what a final record takes besides its tensors.
	recordRoom = 8 << 10
)

// serves refuses a job of a kind that the model does not serve.
func serves(j *contracts.Job, m *Model) error {
	text := j.Kind == contracts.KindChat || j.Kind == contracts.KindText
	if j.Kind == m.Kind || text && m.Kind == "" {
		return nil
	}
	advice := "it writes text: use kind chat or text"
	switch m.Kind {
	case contracts.KindEmbed:
		advice = "it makes vectors of texts: use kind embed, or /v1/embeddings"
	case contracts.KindTensor:
		advice = "it computes tensors: use kind tensor, or /v2/models/" + m.Name + "/infer"
	}
	return contracts.Invalid("model", "model %s does not serve jobs of kind %s: %s", m.Name, j.Kind, advice)
}

// call decides on a job that is one call of its model: of kind embed or tensor.
func call(j *contracts.Job, m *Model, c Capacity, l Limits, d Draw) (*Decision, error) {
	digest, err := Digest(j)
	if err != nil {
		return nil, err
	}
	a := &contracts.Admitted{Digest: digest}
	if j.Kind == contracts.KindEmbed {
		a.Rows, err = rows(j, m, l)
		for _, row := range a.Rows {
			a.KVTokens += len(row)
		}
	} else {
		err = ports(j, m)
		for i := range j.Tensors {
			a.KVTokens += len(j.Tensors[i].Data)
		}
		a.KVTokens = max(1, (a.KVTokens+tensorUnit-1)/tensorUnit)
	}
	if err != nil {
		return nil, err
	}
	if need := int64(a.KVTokens) * c.KVPerToken; c.KVBytes > 0 && need > c.KVBytes {
		return nil, &contracts.Error{Code: contracts.CodePayloadTooLarge, Param: inputParam(j),
			Message: fmt.Sprintf("the job needs %d bytes of memory, the largest live worker has %d: send fewer inputs in one job, or give workers more memory", need, c.KVBytes)}
	}
	fill(j, d.Now.UnixMilli(), d)
	return seal(j, a, l)
}

// rows are the token ids of an embed job's inputs. Ids without the special tokens that all texts have are refused: those
// are of another vocabulary, and would become a vector of something else.
func rows(j *contracts.Job, m *Model, l Limits) ([][]int32, error) {
	out := slices.Clone(j.Rows)
	for i, text := range j.Input {
		ids := m.Tokenizer.Encode(text)
		if len(ids) > m.ContextLength && j.Truncate {
			ids = m.Cut(ids, m.ContextLength)
		}
		if len(ids) > m.ContextLength {
			n := fmt.Sprint(len(ids))
			if len(ids) > m.Counted() {
				n = fmt.Sprintf("more than %d", m.Counted())
			}
			return nil, tooLong(fmt.Sprintf("input[%d]", i), "input[%d] has %s tokens, model %s reads %d: shorten it, or set truncate", i, n, m.Name, m.ContextLength)
		}
		out = append(out, ids)
	}
	frame := m.Tokenizer.Encode("")
	for i, row := range j.Rows {
		if len(row) > m.ContextLength {
			return nil, tooLong(fmt.Sprintf("rows[%d]", i), "rows[%d] has %d tokens, model %s reads %d: shorten it", i, len(row), m.Name, m.ContextLength)
		}
		for k, id := range row {
			if id < 0 || int(id) >= m.Vocab {
				return nil, contracts.Invalid(fmt.Sprintf("rows[%d]", i), "rows[%d][%d] is %d, model %s has tokens 0 to %d: %s", i, k, id, m.Name, m.Vocab-1, sendText)
			}
		}
		if !framed(row, frame) {
			return nil, contracts.Invalid(fmt.Sprintf("rows[%d]", i), "rows[%d] lacks the special tokens %v around it, which all texts of model %s have: %s", i, frame, m.Name, sendText)
		}
	}
	if most := m.MaxRows(l); len(out) > most {
		return nil, &contracts.Error{Code: contracts.CodePayloadTooLarge, Param: inputParam(j),
			Message: fmt.Sprintf("%d inputs in one job, an answer has room for the vectors of %d: send fewer in one job", len(out), most)}
	}
	return out, nil
}

// sendText is what to do about token ids that are not the model's.
const sendText = "send the text instead, or ids of the model's own tokenizer; LangChain's OpenAIEmbeddings sends OpenAI's ids unless check_embedding_ctx_length is False"

// framed tells whether row begins with the first of the frame's tokens and ends with its others.
func framed(row, frame []int32) bool {
	for k := range len(frame) + 1 {
		if len(row) >= len(frame) && slices.Equal(row[:k], frame[:k]) && slices.Equal(row[len(row)-len(frame)+k:], frame[k:]) {
			return true
		}
	}
	return false
}

// MaxRows is how many vectors of the model fit one answer.
func (m *Model) MaxRows(l Limits) int {
	if l.MaxRecord <= 0 || m.Dimensions < 1 {
		return contracts.MaxInputs
	}
	return min(contracts.MaxInputs, max(1, (l.MaxRecord-recordRoom)/(4*m.Dimensions)))
}

// JobRows is how many texts of any length go into one job of a request that becomes several: their vectors fit one
// answer, and their tokens half of a worker's memory, so that it can take the next job meanwhile. It depends on
// nothing that changes while a fleet runs, because a repeated request must become the same jobs.
func (m *Model) JobRows(l Limits) int {
	longest := max(1, int64(m.ContextLength)) * contracts.EmbedCost(m.Dimensions)
	return min(m.MaxRows(l), max(1, int(contracts.CallRoom/2/longest)))
}

// ports checks a tensor job's inputs and outputs against what the model declares.
func ports(j *contracts.Job, m *Model) error {
	for i := range j.Tensors {
		t := &j.Tensors[i]
		at := slices.IndexFunc(m.Inputs, func(p Port) bool { return p.Name == t.Name })
		if at < 0 {
			return contracts.Invalid(fmt.Sprintf("tensors[%d].name", i), "model %s has no input %.100q: its inputs are %s", m.Name, t.Name, names(m.Inputs))
		}
		if err := m.Inputs[at].check(t, i); err != nil {
			return err
		}
	}
	for _, p := range m.Inputs {
		if !slices.ContainsFunc(j.Tensors, func(t contracts.Tensor) bool { return t.Name == p.Name }) {
			return contracts.Invalid("tensors", "input %s of model %s is missing: its inputs are %s", p.Name, m.Name, names(m.Inputs))
		}
	}
	for _, name := range j.Outputs {
		if !slices.ContainsFunc(m.Outputs, func(p Port) bool { return p.Name == name }) {
			return contracts.Invalid("outputs", "model %s has no output %.100q: its outputs are %s", m.Name, name, names(m.Outputs))
		}
	}
	return nil
}

// check says how t, the i-th tensor of a job, does not fit p.
func (p Port) check(t *contracts.Tensor, i int) error {
	if t.Type != p.Type {
		return contracts.Invalid(fmt.Sprintf("tensors[%d].datatype", i), "input %s is of %s, the model reads %s", t.Name, t.Type, p.Type)
	}
	fits := len(t.Shape) == len(p.Shape)
	for k := 0; fits && k < len(p.Shape); k++ {
		fits = t.Shape[k] >= 1 && (p.Shape[k] < 0 || p.Shape[k] == t.Shape[k])
	}
	if !fits {
		return contracts.Invalid(fmt.Sprintf("tensors[%d].shape", i), "input %s has the shape %v, the model reads %v (-1 is any size of at least 1)", t.Name, t.Shape, p.Shape)
	}
	return nil
}

func names(list []Port) string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s (%s %v)", p.Name, p.Type, p.Shape))
	}
	return strings.Join(out, ", ")
}
