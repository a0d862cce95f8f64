// probe_plot.h - probe.png: accuracy over the layers, and a histogram of the best unit in the texts of both labels
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "gpt/plot.h"
#include "gpt/probe.h"

namespace probe_plot {

constexpr Color black{0.1f, 0.1f, 0.12f}, grey{0.4f, 0.4f, 0.42f}, grid{0.9f, 0.9f, 0.91f};
constexpr Color blue{0.12f, 0.39f, 0.71f}, orange{0.88f, 0.4f, 0.04f}, green{0.16f, 0.55f, 0.3f};

// A part of the picture with axes of its own.
struct Panel {
    Canvas& canvas;
    int left, top, right, bottom;
    double x_low, x_high, y_low, y_high;
    double least_x_step = 0;

    double x_of(double x) const { return left + (x - x_low) / (x_high - x_low) * (right - left); }
    double y_of(double y) const { return bottom - (y - y_low) / (y_high - y_low) * (bottom - top); }
    void axes(const std::string& title, const std::string& x_name) const {
        const double x_step = std::max(least_x_step, tick_step(x_high - x_low, 8)),
                     y_step = tick_step(y_high - y_low, 8);
        const auto label    = [](double value, double step) {  // never "-0"
            return fmt::format("{:.4g}", std::fabs(value) < step / 2 ? 0. : value);
        };
        for (double i = std::ceil(x_low / x_step - 1e-9); i * x_step <= x_high * (1 + 1e-9) + 1e-9; i++) {
            const int x = int(x_of(i * x_step));
            canvas.box(x, top, x + 1, bottom, grid);
            canvas.text(x, bottom + 14, label(i * x_step, x_step), grey, Canvas::center);
        }
        for (double i = std::ceil(y_low / y_step - 1e-9); i * y_step <= y_high + 1e-9; i++) {
            const int y = int(y_of(i * y_step));
            canvas.box(left, y, right, y + 1, grid);
            canvas.text(left - 12, y - 7, label(i * y_step, y_step), grey, Canvas::right);
        }
        canvas.box(left, top, left + 2, bottom, grey);
        canvas.box(left, bottom - 2, right, bottom, grey);
        canvas.text((left + right) / 2, top - 32, title, black, Canvas::center);
        canvas.text((left + right) / 2, bottom + 50, x_name, black, Canvas::center);
    }
    void curve(const std::vector<std::pair<double, double>>& points, Color color) const {
        for (size_t i = 0; i < points.size(); i++) {
            const double x = x_of(points[i].first), y = y_of(points[i].second);
            if (i) canvas.stroke(x_of(points[i - 1].first), y_of(points[i - 1].second), x, y, 2.4);
            canvas.stroke(x, y, x, y, 8);
        }
        canvas.show_ink(left - 5, top - 5, right + 6, bottom + 6, color);
    }
    // Below the axis, two to a line.
    void legend(int place, const std::string& name, Color color) const {
        const int x = left + (right - left) / 2 * (place % 2), y = bottom + 90 + 28 * (place / 2);
        canvas.box(x, y + 5, x + 30, y + 11, color);
        canvas.text(x + 42, y, name, black);
    }
};

}  // namespace probe_plot

inline void probe_png(const std::string& path, const ProbeResult& result, const std::vector<std::string>& labels) {
    using namespace probe_plot;
    Canvas canvas(1600, 800);
    const double last = std::max<double>(1, double(result.layers.back().layer));
    const Panel left{canvas, 110, 90, 770, 640, 0, last, 0.4, 1, 1};
    left.axes("accuracy on the test texts", "layer (0: the embedding)");
    const auto curve = [&](Color color, auto accuracy) {
        std::vector<std::pair<double, double>> points;
        for (const LayerScore& l : result.layers) points.emplace_back(l.layer, std::max(0.4, accuracy(l).value()));
        left.curve(points, color);
    };
    const int words = int(left.y_of(std::max(0.4, result.words.test.value())));
    canvas.box(left.left, words, left.right, words + 2, grey);
    curve(green, [](const LayerScore& l) { return l.unit[size_t(l.best_pooling())].test; });
    curve(orange, [](const LayerScore& l) { return l.classifier[1].test; });
    curve(blue, [](const LayerScore& l) { return l.classifier[0].test; });
    left.legend(0, "mean of a text", blue);
    left.legend(1, "last token", orange);
    left.legend(2, "best single unit", green);
    left.legend(3, "bag of words", grey);

    const LayerScore& layer = result.layers.at(result.best);
    const UnitScore& unit   = layer.unit[size_t(layer.best_pooling())];
    float low = INFINITY, high = -INFINITY;
    for (const auto& values : result.best_values)
        for (const float x : values) low = std::min(low, x), high = std::max(high, x);
    if (!(high > low)) low -= 1, high += 1;
    const int bins                = 40;
    std::vector<double> shares[2] = {std::vector<double>(bins, 0.), std::vector<double>(bins, 0.)};
    double most                   = 0;
    for (size_t label = 0; label < 2; label++)
        for (const float x : result.best_values[label]) {
            const int bin = std::min(bins - 1, int((double(x) - low) / (double(high) - low) * bins));
            most = std::max(most, shares[label][size_t(bin)] += 100. / double(result.best_values[label].size()));
        }
    const Panel right{canvas, 900, 90, 1560, 640, low, high, 0, most * 1.1};
    right.axes(fmt::format("unit {} of layer {}, {}: {:.1f} % of test right", unit.unit, layer.layer,
                           pooling_names[size_t(layer.best_pooling())], 100 * unit.test.value()),
               "value of the unit");
    canvas.text(820, (right.top + right.bottom) / 2, "percent of the texts", black, Canvas::center, true);
    for (int bin = 0; bin < bins; bin++)
        for (size_t label = 0; label < 2; label++) {  // two bars beside each other in each bin
            const double width = (double(high) - low) / bins, at = low + (bin + 0.1 + 0.4 * double(label)) * width;
            canvas.box(int(right.x_of(at)), int(right.y_of(shares[label][size_t(bin)])),
                       int(right.x_of(at + 0.4 * width)), right.bottom, label ? blue : orange);
        }
    const int threshold = int(right.x_of(unit.threshold));
    canvas.box(threshold, right.top, threshold + 2, right.bottom, grey);
    for (size_t label = 0; label < 2; label++)
        right.legend(int(label), "label " + labels[label], label ? blue : orange);
    canvas.save(path);
}
