// plot.h - loss.png: the training and validation losses over the tokens seen so far
#pragma once
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_easy_font.h>
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "data/files.h"

struct PlotPoint {
    double tokens, loss;  // a loss that is not finite leaves a gap in the curve
};

struct Color {
    float r, g, b;
};

// A picture to draw on. Boxes and text fill whole pixels; strokes have soft edges.
class Canvas {
  public:
    const int width, height;
    Canvas(int width, int height) : width(width), height(height), rgb_(3 * width * height, 255), ink_(width * height) {}

    void box(int left, int top, int right, int bottom, Color c) {
        for (int y = std::max(top, 0); y < std::min(bottom, height); y++)
            for (int x = std::max(left, 0); x < std::min(right, width); x++) blend(x, y, c, 1);
    }

    // A stroke leaves ink, which show_ink() turns into colour. A pixel keeps the most ink that one stroke gave it, so
    // that lines do not get darker where they cross.
    void stroke(double x0, double y0, double x1, double y1, double thick) {
        const double dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy, reach = thick / 2 + 1;
        const int left   = int(std::max(0., std::min(x0, x1) - reach)),
                  right  = int(std::min(width - 1., std::max(x0, x1) + reach));
        const int top    = int(std::max(0., std::min(y0, y1) - reach)),
                  bottom = int(std::min(height - 1., std::max(y0, y1) + reach));
        for (int y = top; y <= bottom; y++)
            for (int x = left; x <= right; x++) {
                const double px = x + 0.5 - x0, py = y + 0.5 - y0;
                const double t  = length2 > 0 ? std::clamp((px * dx + py * dy) / length2, 0., 1.) : 0;
                const double ex = px - t * dx, ey = py - t * dy, away = std::sqrt(ex * ex + ey * ey);
                float& ink = ink_[y * width + x];
                ink        = std::max(ink, float(std::clamp(thick / 2 + 0.5 - away, 0., 1.)));
            }
    }
    void show_ink(int left, int top, int right, int bottom, Color c) {
        for (int y = top; y < bottom; y++)
            for (int x = left; x < right; x++) blend(x, y, c, ink_[y * width + x]);
        std::fill(ink_.begin(), ink_.end(), 0.f);
    }

    enum Align { left, center, right };
    static int text_width(std::string s) { return 2 * stb_easy_font_width(printable(s).data()); }
    // (x, y) is the left end, the middle or the right end of the top of the text, whose capitals are 14 pixels high.
    // With `up` the text is rotated, so that it reads upwards.
    void text(int x, int y, std::string s, Color c, Align align = left, bool up = false) {
        s = printable(s);
        std::vector<float> corners(s.size() * 400);  // quads of 4 × 16 bytes; no character has more than 16
        const int bytes = int(corners.size() * sizeof(float));
        const int quads = stb_easy_font_print(0, 0, s.data(), nullptr, corners.data(), bytes);
        const int shift = align == left ? 0 : align == center ? text_width(s) / 2 : text_width(s);
        for (int q = 0; q < quads; q++) {
            const float* first = &corners[q * 16];
            const float* third = first + 8;
            const int x0 = int(2 * first[0]) - shift, x1 = int(2 * third[0]) - shift;
            const int y0 = int(2 * first[1]), y1 = int(2 * third[1]);
            if (up)
                box(x + y0, y - x1, x + y1, y - x0, c);
            else
                box(x + x0, y + y0, x + x1, y + y1, c);
        }
    }

    void save(const std::string& path) const {
        OutputFile file(path);
        std::string png;
        const auto append = [](void* to, void* data, int size) {
            static_cast<std::string*>(to)->append(static_cast<const char*>(data), size);
        };
        const int done = stbi_write_png_to_func(append, &png, width, height, 3, rgb_.data(), 3 * width);
        CHECK_RUN(done, "not enough memory to encode {}", path);
        file.write(png);
        file.commit();
    }

  private:
    static std::string printable(std::string s) {  // the font has these characters only, and does not check
        for (char& c : s)
            if (c < ' ' || c > '~') c = '?';
        return s;
    }
    void blend(int x, int y, Color c, float opacity) {
        uint8_t* p       = &rgb_[3 * (y * width + x)];
        const float to[] = {c.r, c.g, c.b};
        for (int i = 0; i < 3; i++) p[i] = uint8_t(p[i] + opacity * (255 * to[i] - p[i]) + 0.5f);
    }

    std::vector<uint8_t> rgb_;
    std::vector<float> ink_;
};

// The distance between ticks, 1, 2 or 5 times a power of ten, that divides `range` into at most `most` parts.
inline double tick_step(double range, int most) {
    const double power = std::pow(10, std::floor(std::log10(range / most)));
    for (double m : {1., 2., 5.})
        if (range / (m * power) <= most) return m * power;
    return 10 * power;
}

// 0, 500, 20k, 1.5M, 300B
inline std::string short_number(double n) {
    const char* unit = "";
    for (const char* u : {"k", "M", "B", "T"})
        if (n >= 999.5) n /= 1000, unit = u;
    return fmt::format("{:.4g}{}", n, unit);
}

inline std::string short_loss(double loss, int digits) {
    return std::abs(loss) < 1e4 ? fmt::format("{:.{}f}", loss, digits) : fmt::format("{:.3g}", loss);
}

// The lowest and highest loss of the plot. When a tenth of the losses or fewer lie far above the rest, the curve leaves
// the plot through the top there, instead of being flat everywhere else.
inline std::pair<double, double> loss_range(const std::vector<PlotPoint>& train, const std::vector<PlotPoint>& val) {
    std::vector<double> all;
    for (const auto* points : {&train, &val})
        for (const PlotPoint& p : *points)
            if (std::isfinite(p.loss)) all.push_back(p.loss);
    if (all.empty()) return {0, 1};
    std::sort(all.begin(), all.end());
    const double low = all.front(), most = all[all.size() * 9 / 10];
    const double high   = std::min(all.back(), 3 * std::abs(most) + 0.1);
    const double margin = std::max(0.05 * (high - low), 0.02 * std::max(std::abs(high), 1.));
    return {low - margin, high + margin};
}

// Few points are returned as they are. Of many, two hundred averages of neighbours remain, so that the trend shows
// through the noise of batches. An average is over the middle half of the sorted losses, so that no spike moves it.
inline std::vector<PlotPoint> trend(const std::vector<PlotPoint>& points) {
    const int64_t n = int64_t(points.size()), most = 200;
    if (n <= most) return points;
    std::vector<PlotPoint> averages;
    for (int64_t k = 0; k <= most; k++) {
        const int64_t at    = k * (n - 1) / most;
        // The same to both sides, so that a falling curve is not shifted. The end has only one side.
        const int64_t reach = std::min(n / 100, at), last = std::min(at + reach, n - 1);
        std::vector<double> near;
        for (int64_t j = last - 2 * reach; j <= last; j++)
            if (std::isfinite(points[j].loss)) near.push_back(points[j].loss);
        if (near.empty()) continue;
        std::sort(near.begin(), near.end());
        const auto begin = near.begin() + near.size() / 4, end = near.end() - near.size() / 4;
        averages.push_back({points[at].tokens, std::accumulate(begin, end, 0.) / double(end - begin)});
    }
    return averages;
}

// Draws the losses over the tokens. `of` is what a loss is the mean over, "token" or "pair".
inline void loss_png(const std::string& path, const std::string& title, const std::vector<PlotPoint>& train,
                     const std::vector<PlotPoint>& val, const std::string& of = "token") {
    const Color black{0.1f, 0.1f, 0.12f}, grey{0.4f, 0.4f, 0.42f}, grid{0.9f, 0.9f, 0.91f}, white{1, 1, 1};
    const Color pale_blue{0.74f, 0.83f, 0.94f}, blue{0.12f, 0.39f, 0.71f}, orange{0.88f, 0.4f, 0.04f};
    Canvas c(1200, 800);
    const int left = 130, right = c.width - 40, top = 70, bottom = c.height - 90;

    double last_token = 1;
    for (const auto* points : {&train, &val})
        for (const PlotPoint& p : *points) last_token = std::max(last_token, p.tokens);
    const auto [low, high] = loss_range(train, val);
    const auto x_of        = [&](double tokens) { return left + tokens / last_token * (right - left - 20); };
    const auto y_of        = [&, low = low, high = high](double loss) {
        return std::max(bottom - (loss - low) / (high - low) * (bottom - top), -1e4);  // a point far above the plot
    };

    c.text((left + right) / 2, 28, title.size() > 90 ? title.substr(0, 87) + "..." : title, black, Canvas::center);
    const double x_step = tick_step(last_token, 8), y_step = tick_step(high - low, 8);
    const int digits = std::max(0, int(std::ceil(-std::log10(y_step) - 1e-9)));
    for (int64_t i = 0; i * x_step <= last_token; i++) {
        const int x = int(x_of(i * x_step));
        c.box(x, top, x + 1, bottom, grid);
        c.text(x, bottom + 14, short_number(i * x_step), grey, Canvas::center);
    }
    for (double i = std::ceil(low / y_step); i * y_step <= high; i++) {
        const int y = int(y_of(i * y_step));
        c.box(left, y, right, y + 1, grid);
        c.text(left - 12, y - 7, short_loss(i * y_step, digits), grey, Canvas::right);
    }
    c.text((left + right) / 2, bottom + 50, "tokens", black, Canvas::center);
    c.text(24, (top + bottom) / 2, "loss (nats per " + of + ")", black, Canvas::center, true);

    c.box(left, top, left + 2, bottom, grey);
    c.box(left, bottom - 2, right, bottom, grey);

    const auto draw = [&](const std::vector<PlotPoint>& points, double thick, double dot, Color color) {
        const PlotPoint* before = nullptr;
        for (const PlotPoint& p : points) {
            const bool shown = std::isfinite(p.loss);
            const double x = x_of(p.tokens), y = shown ? y_of(p.loss) : 0;
            if (shown && before) c.stroke(x_of(before->tokens), y_of(before->loss), x, y, thick);
            if (shown && dot > 0) c.stroke(x, y, x, y, dot);
            before = shown ? &p : nullptr;
        }
        c.show_ink(left - 5, top, right, bottom, color);
    };
    const std::vector<PlotPoint> averages = trend(train);
    if (averages.size() < train.size()) draw(train, 1.2, 0, pale_blue);
    draw(averages, 2.4, train.size() < 50 ? 6 : 0, blue);
    draw(val, 1.6, 9, orange);

    const int x = right - 276, y = top + 16;
    c.box(x - 1, y - 1, x + 261, y + 77, grid);
    c.box(x, y, x + 260, y + 76, white);
    const auto legend = [&](int line, const char* name, double thick, double dot, Color color, const auto& points) {
        c.stroke(x + 14, line + 7, x + 44, line + 7, thick);
        c.stroke(x + 29, line + 7, x + 29, line + 7, dot);
        c.show_ink(x, y, right, y + 76, color);
        c.text(x + 56, line, name, black);
        c.text(x + 246, line, points.empty() ? "-" : short_loss(points.back().loss, 4), black, Canvas::right);
    };
    legend(y + 16, "training", 2.4, 0, blue, averages);
    legend(y + 46, "validation", 1.6, 9, orange, val);
    c.save(path);
}
