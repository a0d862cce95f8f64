// classifiers.h - what tells two labels apart: features, words, or one unit; with accuracies on texts that were not
// seen
//
// All choices (weights, L2, words, unit, threshold) are made on the training texts.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gpt/activations.h"
#include "gpt/logistic.h"

// How many of n test texts a classifier gets right.
struct Accuracy {
    int64_t right = 0, n = 0;
    double value() const { return double(right) / double(n); }
    // Wilson's interval (1927), in which the true share lies with 95 % confidence.
    std::pair<double, double> interval() const {
        const double z = 1.959963984540054, p = value(), N = double(n), z2 = z * z;
        const double middle = p + z2 / (2 * N), reach = z * std::sqrt(p * (1 - p) / N + z2 / (4 * N * N));
        return {(middle - reach) / (1 + z2 / N), (middle + reach) / (1 + z2 / N)};
    }
};

struct ClassifierScore {
    Accuracy train, test;
    double l2 = 0;
    LogisticModel model;
};

// The values of l2 that are tried, the strongest first.
constexpr double l2_values[] = {1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5};
// Every fifth training text is held out while l2 is chosen.
inline bool held_out(int64_t i) { return i % 5 == 4; }

// Chooses l2 by the lowest loss on the texts held out, and fits all training texts with it. rows_of(x, take) returns
// the rows i of a matrix for which take(i) is true.
template <class Matrix, class RowsOf>
ClassifierScore score_classifier(const Matrix& train, const std::vector<int32_t>& labels, const Matrix& test,
                                 const std::vector<int32_t>& test_labels, RowsOf rows_of) {
    std::vector<int32_t> fitted_labels, held_labels;
    for (size_t i = 0; i < labels.size(); i++)
        (held_out(int64_t(i)) ? held_labels : fitted_labels).push_back(labels[i]);
    const Matrix fitted = rows_of(train, [](int64_t i) { return !held_out(i); }), held = rows_of(train, held_out);
    ClassifierScore score;
    LogisticModel m;
    double least = 0;
    for (const double l2 : l2_values) {
        m                 = fit_logistic(fitted, fitted_labels, l2, m);
        const double loss = log_loss(m, held, held_labels);
        if (score.l2 == 0 || loss < least) score.l2 = l2, least = loss;
        if (loss > 2 * least) break;  // weaker values fit noise
    }
    score.model = fit_logistic(train, labels, score.l2);
    score.train = {count_right(score.model, train, labels), int64_t(labels.size())};
    score.test  = {count_right(score.model, test, test_labels), int64_t(test_labels.size())};
    return score;
}

// The mean and the standard deviation of each unit over the training texts. A unit that never changes has deviation 1.
struct UnitScale {
    std::vector<double> mean, deviation;
    explicit UnitScale(const Features& x) : mean(size_t(x.width), 0.), deviation(size_t(x.width), 0.) {
        const double n = double(x.rows);
        for (int64_t i = 0; i < x.rows; i++)
            for (size_t c = 0; c < mean.size(); c++) mean[c] += x.row(i)[c] / n;
        for (int64_t i = 0; i < x.rows; i++)
            for (size_t c = 0; c < mean.size(); c++) {
                const double off = x.row(i)[c] - mean[c];
                deviation[c] += off * off / n;
            }
        for (size_t c = 0; c < mean.size(); c++) {
            deviation[c] = std::sqrt(deviation[c]);
            if (!(deviation[c] > 1e-6 * std::fabs(mean[c]))) deviation[c] = 1;
        }
    }
    DenseMatrix scaled(const Features& x) const {
        DenseMatrix m{x.rows, x.width, std::vector<float>(x.values.size())};
        for (int64_t i = 0; i < x.rows; i++)
            for (size_t c = 0; c < mean.size(); c++)
                m.x[size_t(i * x.width) + c] = float((x.row(i)[c] - mean[c]) / deviation[c]);
        return m;
    }
};

template <class Take>
DenseMatrix dense_rows(const DenseMatrix& x, Take take) {
    DenseMatrix out{0, x.d, {}};
    for (int64_t i = 0; i < x.n; i++)
        if (take(i)) out.x.insert(out.x.end(), x.x.begin() + i * x.d, x.x.begin() + (i + 1) * x.d), out.n++;
    return out;
}
template <class Take>
SparseMatrix sparse_rows(const SparseMatrix& x, Take take) {
    SparseMatrix out{0, x.d, {0}, {}};
    for (size_t i = 0; i < size_t(x.n); i++) {
        if (!take(int64_t(i))) continue;
        out.columns.insert(out.columns.end(), x.columns.begin() + x.first[i], x.columns.begin() + x.first[i + 1]);
        out.first.push_back(int64_t(out.columns.size()));
        out.n++;
    }
    return out;
}

// A text's words: runs of letters, digits, apostrophes and bytes beyond ASCII, with A to Z in lower case.
inline std::set<std::string> words_in(const std::string& text) {
    std::set<std::string> words;
    std::string word;
    for (const char c : text + " ") {
        const bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
        if (upper || lower || digit || c == '\'' || (uint8_t(c) & 0x80)) {
            word += upper ? char(c ^ 0x20) : c;
        } else if (!word.empty()) {
            words.insert(word);
            word.clear();
        }
    }
    return words;
}

// The baseline, which sees which words a text has, and nothing of the model. A word counts when it is in two training
// texts or more.
inline ClassifierScore score_bag_of_words(const std::vector<std::string>& train, const std::vector<int32_t>& labels,
                                          const std::vector<std::string>& test,
                                          const std::vector<int32_t>& test_labels) {
    std::map<std::string, int64_t> texts_with;
    for (const std::string& text : train)
        for (const std::string& word : words_in(text)) texts_with[word]++;
    std::map<std::string, int32_t> column;
    for (const auto& [word, count] : texts_with)
        if (count >= 2) column.emplace(word, int32_t(column.size()));
    const auto matrix = [&](const std::vector<std::string>& of) {
        SparseMatrix x{int64_t(of.size()), int64_t(column.size()), {0}, {}};
        for (const std::string& text : of) {
            for (const std::string& word : words_in(text))
                if (const auto found = column.find(word); found != column.end()) x.columns.push_back(found->second);
            x.first.push_back(int64_t(x.columns.size()));
        }
        return x;
    };
    const auto rows = [](const SparseMatrix& x, auto take) { return sparse_rows(x, take); };
    return score_classifier(matrix(train), labels, matrix(test), test_labels, rows);
}

// A unit whose value tells the labels apart: above the threshold the label is `above`, else the other.
struct UnitScore {
    int64_t unit     = -1;
    double threshold = 0;
    int32_t above    = 1;
    Accuracy train, test;
    double class_means[2] = {};  // over the training texts of each label
};

// Returns the unit and the threshold that get the most training texts right. On a tie it is the first unit with its
// lowest threshold. A threshold lies in the middle between two values that occur.
inline UnitScore best_unit(const Features& train, const std::vector<int32_t>& labels, const Features& test,
                           const std::vector<int32_t>& test_labels) {
    const size_t n     = labels.size();
    const int64_t ones = std::count(labels.begin(), labels.end(), 1);
    std::vector<UnitScore> all(static_cast<size_t>(train.width));
    host::parallel_ranges(train.width, 1, [&](int64_t begin, int64_t end) {
        std::vector<std::pair<float, int32_t>> sorted(n);
        for (int64_t c = begin; c < end; c++) {
            for (size_t i = 0; i < n; i++) sorted[i] = {train.row(int64_t(i))[c], labels[i]};
            std::sort(sorted.begin(), sorted.end());
            UnitScore& best    = all[size_t(c)];
            best.unit          = c;
            best.train         = {0, int64_t(n)};
            int64_t ones_below = 0;
            for (size_t i = 1; i < n; i++) {  // the threshold lies below entry i
                ones_below += sorted[i - 1].second;
                if (sorted[i].first == sorted[i - 1].first) continue;
                const int64_t right = ones - ones_below + int64_t(i) - ones_below;
                const double middle = (double(sorted[i - 1].first) + double(sorted[i].first)) / 2;
                const auto better   = [&](int64_t count, int32_t above) {
                    if (count > best.train.right) best.train.right = count, best.threshold = middle, best.above = above;
                };
                better(right, 1);
                better(int64_t(n) - right, 0);
            }
        }
    });
    UnitScore best = *std::max_element(
        all.begin(), all.end(), [](const UnitScore& a, const UnitScore& b) { return a.train.right < b.train.right; });
    best.test.n = int64_t(test_labels.size());
    for (size_t i = 0; i < test_labels.size(); i++)
        best.test.right +=
            (test.row(int64_t(i))[best.unit] > best.threshold ? best.above : 1 - best.above) == test_labels[i];
    for (size_t i = 0; i < n; i++)
        best.class_means[labels[i]] += train.row(int64_t(i))[best.unit] / double(labels[i] ? ones : int64_t(n) - ones);
    return best;
}
