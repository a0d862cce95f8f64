// generate.h - writing text: a cache of keys and values, and the loop that appends chosen tokens
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "gpt/model.h"

// Throws a RunError when logits, or a loss that was computed from them, are not finite. They follow from `tokens`
// tokens `of` a text.
inline void expect_finite(bool finite, int64_t tokens, const std::string& of = "of the text") {
    CHECK_RUN(finite,
              "the model's logits after token {} {} are not finite numbers: its weights are damaged, or --steer "
              "adds numbers that are too large",
              tokens, of);
}
inline void expect_finite_logits(const float* logits, int64_t V, int64_t tokens) {
    expect_finite(std::all_of(logits, logits + V, [](float x) { return std::isfinite(x); }), tokens);
}

// Runs a model a few tokens at a time on `batch` sequences, which may differ in length, and keeps the keys and values
// of all tokens so far.
class Generator {
  public:
    // tokens: the most that the cache holds of each sequence, prompt included.
    Generator(Model& model, int64_t batch, int64_t tokens, const Sampling& how = {})
        : model_(model),
          batch_(batch),
          tokens_(tokens),
          how_(how),
          feed_(*model.device, feed_capacity(batch, tokens)),
          answers_(*model.device, batch * int64_t(sizeof(int32_t))),
          step_(*model.device, model.device->has_graphs(), !model.shards->travel()) {
        const Config& c = model_.config;
        CHECK(!c.learned_positions || tokens <= c.context, "{} tokens at once, but {} has positions for {}", tokens,
              c.name, c.context);
        const Shape cache{batch, c.heads, tokens, c.head_size()};
        plan(acts_memory_, cache_memory_, c, model_.dtype, batch, tokens);
        acts_memory_.allocate(*model_.device);
        cache_memory_.allocate(*model_.device);
        for (int64_t l = 0; l < c.layers; l++) {
            k_.push_back(cache_memory_.take(cache, model_.dtype));
            v_.push_back(cache_memory_.take(cache, model_.dtype));
        }
        last_      = cache_memory_.take({batch, c.width}, model_.dtype);
        chosen_    = cache_memory_.take({batch, 1}, DType::I32);
        positions_ = cache_memory_.take({batch, 1}, DType::I32);
        drawn_     = cache_memory_.take({batch}, DType::I32);
        lengths_.resize(batch);
        ids_.resize(batch);
    }

    // What was queued ahead leaves no error behind.
    ~Generator() {
        try {
            forget_ahead();
        } catch (const std::exception&) {}
    }
    Generator(const Generator&)            = delete;
    Generator& operator=(const Generator&) = delete;

    // The memory that a Generator takes on the device, in bytes.
    static int64_t bytes(const Config& c, DType dtype, int64_t batch, int64_t tokens, Machine where) {
        Arena acts, cache;
        plan(acts, cache, c, dtype, batch, tokens);
        return acts.bytes() + cache.bytes() + Feed::device_bytes(feed_capacity(batch, tokens).bytes(), where);
    }

    int32_t longest() const { return *std::max_element(lengths_.begin(), lengths_.end()); }  // tokens in the cache
    void reset() {
        std::fill(lengths_.begin(), lengths_.end(), 0);
        forget_ahead();
    }

    // Appends texts[b] to sequence b. The cache must have room for the longest text in every sequence. logits() and
    // choose() are about what follows the last token of each text.
    void feed(const std::vector<std::vector<int32_t>>& texts) {
        CHECK_CALL(int64_t(texts.size()) == batch_, "{} texts for {} sequences", texts.size(), batch_);
        int64_t n = 0;
        for (const auto& text : texts) {
            CHECK_CALL(!text.empty(), "one of {} texts has no tokens", texts.size());
            n = std::max(n, int64_t(text.size()));
        }
        expect_room(n);
        forget_ahead();
        const int64_t most = most_at_once(batch_, tokens_);
        for (int64_t first = 0; first < n; first += most) {
            const int64_t T = std::min(most, n - first);
            run(texts, first, T);
            for (int64_t b = 0; b < batch_; b++) {
                const int64_t t = int64_t(texts[b].size()) - 1 - first;
                if (t >= 0 && t < T) copy(last_.rows(b, 1), acts_.lnf.rows(b * T + t, 1), model_.stream);
            }
        }
        for (int64_t b = 0; b < batch_; b++) lengths_[b] += int32_t(texts[b].size());
        from_host(positions_, lengths_.data(), model_.stream);
    }
    // Returns the logits (batch, vocab).
    std::vector<float> logits() const {
        std::vector<float> all;
        each_row_of_logits(model_, acts_, last_,
                           [&](int64_t, const float* row) { all.insert(all.end(), row, row + model_.config.vocab); });
        return all;
    }
    // Returns the next token of every sequence, or -1 where a logit is not a finite number.
    const std::vector<int32_t>& choose() {
        forget_ahead();
        choose_from(last_, {});
        answers_.ask(chosen_);
        return chosen();
    }
    // Appends the tokens that were chosen last, and chooses those that follow. On a GPU this is the launch of one
    // graph, which finds tokens and positions in the device's memory. Only the chosen ids come to the host. The graph
    // of the next call is launched before the host waits for them, so the GPU goes on while the host looks at them. If
    // the next call is another one, that graph's work is taken back.
    const std::vector<int32_t>& next() {
        expect_room(1);
        if (!ahead_) queue_next();
        ahead_ = model_.device->has_graphs() && longest() + 2 <= tokens_;
        if (ahead_) queue_next();
        for (int32_t& length : lengths_) length++;
        return chosen();
    }
    // Appends tokens to one sequence, as feed() does. each(position, logits) gets the logits (vocab) of every position.
    void feed_all(const std::vector<int32_t>& tokens, const std::function<void(int64_t, const float*)>& each) {
        const int64_t n = int64_t(tokens.size()), most = most_at_once(batch_, tokens_);
        CHECK_CALL(batch_ == 1, "the logits of every position are computed for one sequence only, not for {}", batch_);
        expect_room(n);
        forget_ahead();
        for (int64_t first = 0; first < n; first += most) {
            run({tokens}, first, std::min(most, n - first));
            each_row_of_logits(model_, acts_, acts_.lnf, [&](int64_t t, const float* row) { each(first + t, row); });
        }
        lengths_[0] += int32_t(n);
    }

  private:
    // The most tokens of each sequence that go through the model at once. A long prompt goes in several parts, which
    // bounds the memory of activations.
    static int64_t most_at_once(int64_t batch, int64_t tokens) {
        return std::min<int64_t>(tokens, std::max<int64_t>(1, 256 / batch));
    }
    static BatchFeed::Capacity feed_capacity(int64_t batch, int64_t tokens) {
        return {batch * most_at_once(batch, tokens)};
    }
    static void plan(Arena& acts, Arena& cache, const Config& c, DType dtype, int64_t batch, int64_t tokens) {
        plan_activations(acts, c, {batch, most_at_once(batch, tokens), false}, dtype);
        for (int64_t l = 0; l < 2 * c.layers; l++) cache.plan({batch, c.heads, tokens, c.head_size()}, dtype);
        cache.plan({batch, c.width}, dtype);
        for (int i = 0; i < 3; i++) cache.plan({batch}, DType::I32);
    }
    void expect_room(int64_t n) const {
        CHECK_CALL(n > 0 && longest() + n <= tokens_, "{} tokens after {}: the cache holds {}", n, longest(), tokens_);
    }
    void shape_activations(int64_t T) {  // the same memory gets the shapes of T tokens
        if (acts_T_ == T) return;
        acts_memory_.rewind();
        each_activation(acts_, model_.config, {batch_, T, false}, model_.dtype,
                        [&](const Shape& shape, DType dtype) { return acts_memory_.take(shape, dtype); });
        acts_T_ = T;
    }
    // Runs tokens [first, first + T) of the texts through all blocks, up to the final norm. Rows past the end of a text
    // compute nothing that another row sees. What they leave in the cache is overwritten when its place is used.
    void run(const std::vector<std::vector<int32_t>>& texts, int64_t first, int64_t T) {
        shape_activations(T);
        std::vector<int32_t> ids(batch_ * T), positions(batch_ * T);
        for (int64_t b = 0; b < batch_; b++)
            for (int64_t t = 0; t < T; t++) {
                ids[b * T + t]       = first + t < int64_t(texts[b].size()) ? texts[b][first + t] : 0;
                positions[b * T + t] = int32_t(lengths_[b] + first + t);
            }
        const Shape shape{batch_, T};
        const Batch& batch =
            feed_.bring({{ids.data(), DType::I32, shape}, {}, {}, {positions.data(), DType::I32, shape}});
        trunk(batch.tokens, batch.positions);
    }
    void trunk(Tensor tokens, Tensor positions) {
        const Config& c = model_.config;
        forward(model_, acts_, tokens, positions, Keep::results, [&](BlockActs& a, int64_t l) {
            attention_cached(a.att, k_[l], v_[l], a.qkv, positions, c.rope, c.attn_scale(l), c.window(l),
                             model_.stream);
        });
    }
    void choose_from(Tensor lnf, Tensor positions) {
        head(model_, acts_, lnf, [&](int64_t first, Tensor logits) {
            const int64_t n   = logits.shape[0];
            const auto column = [&](Tensor t) { return t ? t.view({batch_}).rows(first, n) : t; };
            ::choose(column(chosen_), column(drawn_), column(positions), logits, model_.config.vocab, first, how_,
                     model_.stream);
        });
    }
    void queue_next() {
        shape_activations(1);
        step_.run([&] {
            trunk(chosen_, positions_);
            choose_from(acts_.lnf, positions_);
        });
        answers_.ask(chosen_);
    }
    // Returns the ids that were asked for first.
    const std::vector<int32_t>& chosen() {
        std::memcpy(ids_.data(), answers_.answer(), ids_.size() * sizeof(int32_t));
        draws_++;
        return ids_;
    }
    // Takes back what was queued ahead. The row that it appended to the cache is overwritten when its place is used.
    // Where a logit was not finite, the id -1 was chosen, which the caller knows, and the model has met it ahead. The
    // error about that is not thrown.
    void forget_ahead() {
        if (!ahead_) return;
        ahead_ = false;
        try {
            answers_.answer();
        } catch (const CallError&) {}
        from_host(chosen_, ids_.data(), model_.stream);
        from_host(positions_, lengths_.data(), model_.stream);
        from_host(drawn_, std::vector<int32_t>(batch_, draws_).data(), model_.stream);
    }

    Model& model_;
    int64_t batch_, tokens_, acts_T_ = 0;
    Sampling how_;
    Arena acts_memory_{"generation"}, cache_memory_{"key/value cache"};
    Acts acts_;
    BatchFeed feed_;
    Answers answers_;
    Graph step_;
    bool ahead_    = false;         // says whether the work of the next next() is queued and asked for
    int32_t draws_ = 0;             // how many tokens were chosen of each sequence
    std::vector<Tensor> k_, v_;     // (batch,H,tokens,D) for each layer
    Tensor last_;                   // (batch,C): the final norm of the last token of each text
    Tensor chosen_, positions_;     // (batch,1): the tokens that were chosen last, and the place of the next ones
    Tensor drawn_;                  // (batch): how many random numbers were drawn for each sequence
    std::vector<int32_t> lengths_;  // counts the tokens of each sequence in the cache
    std::vector<int32_t> ids_;      // a copy of chosen_ on the host
};

// Continues the prompt by up to `tokens` ids in each of `samples` sequences. each(sample, id) receives them as they
// come, and returns false to end that sample. The cache holds `context` tokens (0: as many as the model's context). Of
// a longer prompt, the model reads the newest tokens. When the cache is full, the newer half of the text becomes its
// new beginning. Throws a RunError when logits are not finite.
inline void generate(Model& m, const std::vector<int32_t>& prompt, int64_t tokens, int64_t samples, const Sampling& how,
                     const std::function<bool(int64_t, int32_t)>& each, int64_t context = 0) {
    CHECK(!prompt.empty(), "the prompt has no tokens; give at least one (--prompt TEXT)");
    CHECK_CALL(samples > 0 && tokens >= 0, "--samples {} --tokens {}: expected at least 1 sample and 0 tokens", samples,
               tokens);
    m.config.check_ids(prompt, "the prompt");
    const int64_t most     = context > 0 ? context : m.config.context;
    // The last token that is chosen does not go into the cache.
    const int64_t capacity = std::min(most, int64_t(prompt.size()) + std::min(std::max<int64_t>(tokens - 1, 0), most));
    Generator g(m, samples, capacity, how);

    std::vector<std::vector<int32_t>> text(samples, prompt);
    std::vector<bool> open(samples, true);
    const auto restart = [&](int64_t keep) -> const std::vector<int32_t>& {
        std::vector<std::vector<int32_t>> ends;
        for (const auto& t : text) ends.emplace_back(t.end() - keep, t.end());
        g.reset();
        g.feed(ends);
        return g.choose();
    };
    if (tokens == 0) return;
    const std::vector<int32_t>* next = &restart(std::min<int64_t>(prompt.size(), capacity));
    for (int64_t n = 0; n < tokens; n++) {
        for (int64_t i = 0; i < samples; i++) {
            const int32_t id = (*next)[i];
            expect_finite(id >= 0, int64_t(text[i].size()));
            text[i].push_back(id);
            if (open[i] && !each(i, id)) open[i] = false;
        }
        if (n + 1 == tokens || std::none_of(open.begin(), open.end(), [](bool o) { return o; })) break;
        next = g.longest() < capacity ? &g.next() : &restart((capacity + 1) / 2);
    }
}
