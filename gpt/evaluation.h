// evaluation.h - HellaSwag and LAMBADA: how likely a model finds the end of a text
//
// Texts, tokens and scores are those of lm-evaluation-harness (tasks hellaswag and lambada_openai, no examples in the
// prompt), so that figures may stand beside published ones:
//   hellaswag  acc: the right ending is the likeliest; acc_norm: it is so per character
//   lambada    acc: greedy decoding gives the last word; perplexity: exp of minus the mean log-likelihood of that word
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json.h"
#include "data/tokenizer.h"
#include "gpt/model.h"

// ---- the files ------------------------------------------------------------------------------------------------------

// A text of which all ids from `given` on are to be predicted.
struct Continuation {
    std::vector<int32_t> ids;
    int64_t given;
};

// As the harness cuts: both encoded together, and what lies beyond the context's own ids is the continuation. An empty
// context is the end-of-text id.
inline Continuation encode_pair(const Tokenizer& tokenizer, const std::string& context, const std::string& ending,
                                const std::string& where) {
    const size_t end = context.find_last_not_of(" \t\n\r\f\v") + 1;  // spaces at the end go with what follows them
    const auto given = tokenizer.encode(std::string_view(context).substr(0, end));
    auto ids         = tokenizer.encode(context + ending);
    CHECK(ids.size() > given.size(), "{}: nothing is left to predict after the context", where);
    if (!given.empty()) return {ids, int64_t(given.size())};
    CHECK(tokenizer.eot() >= 0, "{}: the context is empty, and the tokenizer has no <|endoftext|> to stand for it",
          where);
    ids.insert(ids.begin(), tokenizer.eot());
    return {ids, 1};
}

// each(object, "FILE line N") for every line of a .jsonl that is not empty.
inline void each_json_line(const std::string& path,
                           const std::function<void(const nlohmann::json&, const std::string&)>& each) {
    const MappedFile file(path);
    int64_t number = 0;
    for (std::string_view text = file.text(); !text.empty();) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        const std::string where = fmt::format("{} line {}", path, ++number);
        if (line.find_first_not_of(" \t\r") == line.npos) continue;
        const nlohmann::json j = parse_json(line, where);
        CHECK(j.is_object(), "{}: expected a JSON object", where);
        each(j, where);
    }
}
inline std::string text_field(const nlohmann::json& j, const char* key, const std::string& where) {
    CHECK(j.contains(key) && j[key].is_string(), "{}: the field \"{}\" is {}, expected a text", where, key,
          j.contains(key) ? j[key].dump().substr(0, 80) : "missing");
    return j[key].get<std::string>();
}

struct Question {
    std::vector<Continuation> endings;
    std::vector<double> lengths;  // of each ending in characters
    int64_t label;
};

// What the harness does to HellaSwag's texts, which carry the mark-up of WikiHow.
inline std::string clean_hellaswag(std::string text) {
    const auto replace = [&](std::string_view from, std::string_view to) {
        for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
    };
    const char* space = " \t\n\r\f\v";
    text.erase(0, text.find_first_not_of(space));
    text.erase(text.find_last_not_of(space) + 1);
    replace(" [title]", ". ");
    for (size_t at = 0; (at = text.find('[', at)) != text.npos;) {
        const size_t end = text.find_first_of("]\n", at);
        if (end != text.npos && text[end] == ']')
            text.erase(at, end + 1 - at);
        else
            at++;
    }
    replace("  ", " ");
    return text;
}

// Lines as Zellers et al. published them (activity_label, ctx_a, ctx_b, endings, label) or with the context ready
// (ctx). most: only so many, the first; 0: all.
inline std::vector<Question> read_hellaswag(const std::string& path, const Tokenizer& tokenizer, int64_t most = 0) {
    std::vector<Question> all;
    each_json_line(path, [&](const nlohmann::json& j, const std::string& where) {
        if (most > 0 && int64_t(all.size()) == most) return;
        std::string context;
        if (j.contains("activity_label")) {
            std::string b = text_field(j, "ctx_b", where);  // as Python's capitalize() leaves it, for ASCII
            for (size_t i = 0; i < b.size(); i++)
                if (i == 0 ? b[i] >= 'a' && b[i] <= 'z' : b[i] >= 'A' && b[i] <= 'Z') b[i] = char(b[i] ^ 0x20);
            context = text_field(j, "activity_label", where) + ": " + text_field(j, "ctx_a", where) + " " + b;
        } else {
            context = text_field(j, "ctx", where);
        }
        context = clean_hellaswag(context);
        CHECK(j.contains("endings") && j["endings"].is_array() && j["endings"].size() >= 2,
              "{}: the field \"endings\" is {}, expected a list of two or more", where,
              j.contains("endings") ? j["endings"].dump().substr(0, 80) : "missing");
        Question q;
        for (const nlohmann::json& ending : j["endings"]) {
            CHECK(ending.is_string(), "{}: an ending is {}, expected a text", where, ending.dump().substr(0, 80));
            const std::string text = clean_hellaswag(ending.get<std::string>());
            CHECK(!text.empty(), "{}: an ending is empty", where);
            q.endings.push_back(encode_pair(tokenizer, context, " " + text, where));
            q.lengths.push_back(
                double(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; })));
        }
        const nlohmann::json label = j.value("label", nlohmann::json());
        const std::string digits   = label.is_string() ? label.get<std::string>() : label.dump();
        q.label                    = digits.size() == 1 ? digits[0] - '0' : -1;
        CHECK(q.label >= 0 && q.label < int64_t(q.endings.size()), "{}: \"label\" is {}, expected 0 to {}", where,
              label.dump(), q.endings.size() - 1);
        all.push_back(q);
    });
    CHECK(!all.empty(), "{}: no questions", path);
    return all;
}

// Lines with "text", whose last word is to be predicted.
inline std::vector<Continuation> read_lambada(const std::string& path, const Tokenizer& tokenizer) {
    std::vector<Continuation> all;
    each_json_line(path, [&](const nlohmann::json& j, const std::string& where) {
        const std::string text = text_field(j, "text", where);
        const size_t last      = text.rfind(' ');
        CHECK(last != text.npos && last + 1 < text.size(), "{}: no last word after a space", where);
        all.push_back(encode_pair(tokenizer, text.substr(0, last), text.substr(last), where));
    });
    CHECK(!all.empty(), "{}: no texts", path);
    return all;
}

// ---- likelihoods ----------------------------------------------------------------------------------------------------

struct Likelihood {
    double log_likelihood = 0;     // of all ids from `given` on
    bool greedy           = true;  // whether each is the likeliest (of equals the smallest), when that was asked for
};

// Texts lie behind each other in the rows of the model's batches and do not see each other: what a row costs does not
// depend on how long the texts in it are. Of a text longer than the context the end is used.
class LikelihoodRun {
  public:
    LikelihoodRun(Model& model, bool greedy) : m_(model), greedy_(greedy) { clear(); }

    std::vector<Likelihood> of(const std::vector<Continuation>& texts) {
        result_.assign(texts.size(), {});
        for (size_t i = 0; i < texts.size(); i++) place(texts[i], i);
        run();
        return std::move(result_);
    }

  private:
    struct Target {
        int64_t row;
        size_t text;
    };

    void clear() {
        const int64_t N = m_.shape.rows();
        tokens_.assign(N, 0), targets_.assign(N, -1), starts_.resize(N), positions_.assign(N, 0);
        for (int64_t n = 0; n < N; n++) starts_[n] = int32_t(n % m_.shape.context);  // an unused row sees itself
        wanted_.clear();
        used_ = 0;
    }

    void place(const Continuation& text, size_t index) {
        const int64_t T = m_.shape.context, all = int64_t(text.ids.size()) - 1, n = std::min(all, T), skip = all - n;
        if (used_ % T + n > T) used_ += T - used_ % T;
        if (used_ + n > m_.shape.rows()) run();
        for (int64_t t = 0; t < n; t++) {
            const int64_t row = used_ + t;
            tokens_[row]      = text.ids[skip + t];
            starts_[row]      = int32_t(used_ % T);
            positions_[row]   = int32_t(t);
            if (skip + t + 1 < text.given) continue;
            targets_[row] = text.ids[skip + t + 1];
            wanted_.push_back({row, index});
        }
        used_ += n;
    }

    void run() {
        const Shape z{m_.shape.batch, m_.shape.context};
        const auto tensor = [&](std::vector<int32_t>& v) { return Tensor{v.data(), DType::I32, z}; };
        if (wanted_.empty()) return;
        const Batch& batch = m_.feed.bring({tensor(tokens_), tensor(targets_), tensor(starts_), tensor(positions_)});
        forward(m_, batch, Keep::results);
        head(m_, batch, m_.acts.loss, 1.f);
        std::vector<float> losses(m_.shape.rows());
        to_host(losses.data(), m_.acts.losses, m_.stream);
        for (const Target& w : wanted_) result_[w.text].log_likelihood -= losses[w.row];
        if (greedy_) find_greedy();
        clear();
    }

    // The head has overwritten its logits chunk by chunk. So this gathers the final norm of the wanted rows and
    // computes their logits again.
    void find_greedy() {
        const Tensor lnf = m_.acts.lnf;
        for (size_t i = 0; i < wanted_.size(); i++)
            if (int64_t(i) != wanted_[i].row) copy(lnf.rows(i, 1), lnf.rows(wanted_[i].row, 1), m_.stream);
        each_row_of_logits(m_, m_.acts, lnf.rows(0, wanted_.size()), [&](int64_t i, const float* logits) {
            const Target& w        = wanted_[i];
            const float* likeliest = std::max_element(logits, logits + m_.config.vocab);
            if (likeliest - logits != targets_[w.row]) result_[w.text].greedy = false;
        });
    }

    Model& m_;
    bool greedy_;
    std::vector<int32_t> tokens_, targets_, starts_, positions_;
    std::vector<Target> wanted_;
    std::vector<Likelihood> result_;
    int64_t used_ = 0;  // rows
};

// ---- scores ---------------------------------------------------------------------------------------------------------

struct HellaSwagScore {
    int64_t questions;
    double acc, acc_norm;
};
inline HellaSwagScore score_hellaswag(Model& model, const std::vector<Question>& questions) {
    std::vector<Continuation> texts;
    for (const Question& q : questions) texts.insert(texts.end(), q.endings.begin(), q.endings.end());
    const std::vector<Likelihood> all = LikelihoodRun(model, false).of(texts);
    int64_t right = 0, right_norm = 0;
    size_t at = 0;
    for (const Question& q : questions) {
        int64_t best = 0, best_norm = 0;
        const auto of = [&](int64_t i) { return all[at + i].log_likelihood; };
        for (int64_t i = 1; i < int64_t(q.endings.size()); i++) {
            if (of(i) > of(best)) best = i;
            if (of(i) / q.lengths[i] > of(best_norm) / q.lengths[best_norm]) best_norm = i;
        }
        right += best == q.label, right_norm += best_norm == q.label;
        at += q.endings.size();
    }
    const double n = double(questions.size());
    return {int64_t(questions.size()), double(right) / n, double(right_norm) / n};
}

struct LambadaScore {
    int64_t texts;
    double acc, perplexity;
};
inline LambadaScore score_lambada(Model& model, const std::vector<Continuation>& texts) {
    double right = 0, total = 0;
    for (const Likelihood& l : LikelihoodRun(model, true).of(texts)) right += l.greedy, total += l.log_likelihood;
    const double n = double(texts.size());
    return {int64_t(texts.size()), right / n, std::exp(-total / n)};
}
