// conversation.h - a conversation with a model: what it has read so far, and its answers
//
// The cache of keys and values is kept between turns, so a turn feeds the tokens that are new: what the chat template
// puts behind the last answer, and the message. When the context is full, the oldest turns leave, until half of it is
// free. The system message stays.
#pragma once
#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "data/chat_template.h"
#include "gpt/generate.h"
#include "gpt/text.h"

class Conversation {
  public:
    struct Settings {
        int64_t context = 1, tokens = 200;  // the most tokens that the model reads, and that an answer has
        Sampling sampling;
        std::vector<std::string> stop;  // an answer ends before the first of these texts
        bool specials = false;          // special tokens in messages become their ids; else they are plain text
    };
    // How an answer came about.
    struct Answer {
        bool ended        = false;  // by a token or a text that ends answers, not for want of tokens or by the user
        int64_t fed       = 0;      // tokens that were read before the first one was written
        int64_t tokens    = 0;      // tokens that were written
        int64_t used      = 0;      // tokens of the context that the conversation fills now
        int64_t forgotten = 0;      // messages that left the context since the answer before
        bool cut          = false;  // the message alone was too long, and the model read its end
    };

    Conversation(Model& model, const Tokenizer& tokenizer, const ChatTemplate& form, Settings how)
        : model_(model),
          tokenizer_(tokenizer),
          form_(form),
          how_(std::move(how)),
          generator_(model, 1, how_.context, how_.sampling) {
        CHECK(how_.context >= 8, "--chat: a context of {} is too short for a conversation",
              count_of(how_.context, "token"));
    }

    const Messages& messages() const { return messages_; }  // all of them, also those that left the context
    int64_t context() const { return how_.context; }
    int64_t used() const { return int64_t(ids_.size()); }  // tokens of the context
    const std::vector<int32_t>& ids() const { return ids_; }

    // Begins anew, with the same system message.
    void reset() {
        const bool has_system = !messages_.empty() && messages_[0].role == "system";
        messages_.resize(has_system ? 1 : 0);
        first_ = messages_.size();
        forget_ids();
    }
    // Begins anew, with another system message; an empty one stands for none. One that would leave less than half of
    // the context to the turns is refused.
    void set_system(const std::string& text) {
        const auto ids = form_.encode({{"system", text}}, false, false, how_.specials).ids;
        model_.config.check_ids(ids, "/system");
        const int64_t tokens = int64_t(ids.size());
        CHECK(text.empty() || tokens <= how_.context / 2,
              "/system: this message has {}, but at most half of the context of {} can be the system's; {}",
              count_of(tokens, "token"), how_.context,
              messages_.empty() ? "give a shorter one" : "the conversation goes on as before");
        messages_.clear();
        if (!text.empty()) messages_.push_back({"system", text});
        reset();
    }

    // Answers a message. write(text) gets the answer as it comes, in whole characters. go_on() is asked after every
    // token, and returns false to end the answer.
    Answer answer(const std::string& message, const std::function<void(const std::string&)>& write,
                  const std::function<bool()>& go_on) {
        Answer result;
        model_.config.check_ids(form_.encode({{"user", message}}, false, false, how_.specials).ids, "the message");
        messages_.push_back({"user", message});
        messages_.push_back({"assistant", ""});
        std::string& text = messages_.back().content;
        std::vector<int32_t> written;  // ids of this answer
        append_turn();
        if (used() >= how_.context) slide(written, result);
        result.fed = used() - generator_.longest();

        UntilStop until(how_.stop);
        WholeCharacters whole;
        const auto show = [&](std::string piece) {
            if (text.empty() && !piece.empty() && piece[0] == ' ') piece.erase(0, 1);  // the form plain has it there
            text += piece;
            if (!piece.empty()) write(piece);
        };
        const int32_t* next = nullptr;
        while (result.tokens < how_.tokens) {
            if (next && generator_.longest() < how_.context) {
                next = generator_.next().data();
            } else {
                if (next) slide(written, result);
                generator_.feed({{ids_.begin() + generator_.longest(), ids_.end()}});
                next = generator_.choose().data();
            }
            expect_finite(*next >= 0, used(), "of the conversation");
            if ((result.ended = ends(*next))) break;
            ids_.push_back(*next);
            written.push_back(*next);
            result.tokens++;
            show(whole.add(until.add(tokenizer_.text_of(*next))));
            if ((result.ended = until.stopped()) || !go_on()) break;
        }
        show(whole.add(until.rest()));
        show(whole.rest());
        ids_.push_back(form_.end());
        result.used = std::min(used(), how_.context);
        if (until.stopped()) forget_ids();  // the tokens go beyond the answer
        return result;
    }

  private:
    // A token that begins a message or a conversation ends an answer as well.
    bool ends(int32_t id) const {
        return id == form_.end() || form_.uses(id) || id == tokenizer_.eot() || model_.config.is_end(id);
    }
    void forget_ids() {
        ids_.clear();
        generator_.reset();
    }
    // The messages that are in the context, without the last answer, for which the model is about to write.
    Messages in_context() const {
        Messages all(messages_.begin() + int64_t(first_), messages_.end() - 1);
        if (first_ > 0 && messages_[0].role == "system") all.insert(all.begin(), messages_[0]);
        return all;
    }
    // Appends what the template has behind the last answer: the new message and the beginning of its answer.
    void append_turn() {
        const ChatIds all = form_.encode(in_context(), true, false, how_.specials);
        if (ids_.empty()) {
            ids_ = all.ids;
            return;
        }
        const auto answered = std::find(all.counts.rbegin(), all.counts.rend(), uint8_t(1));
        ids_.insert(ids_.end(), all.ids.end() - (answered - all.counts.rbegin()), all.ids.end());
    }
    // Leaves out the oldest turns, so that the text, what is written of the answer included, fills at most half of the
    // context. When the last turn alone is longer than the context, the system message and the newest tokens stay.
    void slide(const std::vector<int32_t>& written, Answer& result) {
        const int64_t most = (how_.context + 1) / 2;
        do {
            if (first_ + 2 < messages_.size()) result.forgotten += 2, first_ += 2;
            forget_ids();
            append_turn();
            ids_.insert(ids_.end(), written.begin(), written.end());
        } while (used() > most && first_ + 2 < messages_.size());
        if (used() < how_.context) return;
        result.cut       = true;
        const Messages m = in_context();
        const auto kept =
            m[0].role == "system" ? form_.encode({m[0]}, false, false, how_.specials).ids : std::vector<int32_t>();
        const auto same = std::mismatch(kept.begin(), kept.end(), ids_.begin(), ids_.end()).second;
        ids_.erase(same, ids_.end() - (how_.context - (same - ids_.begin())) / 2);
    }

    Model& model_;
    const Tokenizer& tokenizer_;
    const ChatTemplate& form_;
    Settings how_;
    Generator generator_;
    Messages messages_;
    size_t first_ = 0;          // the first message of the context, apart from the system message
    std::vector<int32_t> ids_;  // the context; the generator's cache holds the first of them
};
