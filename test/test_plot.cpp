// test_plot.cpp - loss.png is a picture of the right size that shows both curves, whatever the losses are
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

#include <memory>

#include "gpt/log.h"
#include "test/scratch.h"
//
#include "test/catch.h"

namespace {

struct Seen {
    int blue = 0, orange = 0;  // pixels of the curves; the legend is left out
};
Seen look(const std::string& path) {
    int width = 0, height = 0, channels = 0;
    const std::unique_ptr<uint8_t, void (*)(void*)> rgb(stbi_load(path.c_str(), &width, &height, &channels, 3),
                                                        stbi_image_free);
    REQUIRE(rgb);
    REQUIRE((width == 1200 && height == 800 && channels == 3));
    Seen seen;
    for (int y = 70; y < 710; y++)
        for (int x = 125; x < (y < 170 ? 850 : width); x++) {
            const uint8_t* p = rgb.get() + 3 * (y * width + x);
            seen.blue += p[2] > p[0] + 100;
            seen.orange += p[0] > p[2] + 100;
        }
    return seen;
}

}  // namespace

TEST_CASE("loss.png", "[plot]") {
    const Scratch dir;
    const std::string path = dir / "loss.png";
    std::vector<PlotPoint> train, val;
    for (int i = 1; i <= 1000; i++) train.push_back({i * 8192., 3 + 5 * std::exp(-i / 100.) + i % 7 * 0.05});
    for (int i = 0; i <= 10; i++) val.push_back({i * 819200., 3.5 + 4.5 * std::exp(-i)});

    loss_png(path, "a run", train, val);
    CHECK_FALSE(exists(path + ".tmp"));
    const Seen usual = look(path);
    CHECK(usual.blue > 1500);
    CHECK(usual.orange > 1500);

    SECTION("a huge loss, an infinite one and NaNs don't hide the rest") {
        train[0].loss = 1e30, train[500].loss = INFINITY, train[700].loss = NAN;
        val[3].loss = NAN, val[0].loss = -INFINITY;
        loss_png(path, "", train, val);
        const Seen seen = look(path);
        CHECK(seen.blue > 1000);
        CHECK(seen.orange > 1000);
    }
    SECTION("one point is a dot") {
        loss_png(path, "\xff\x01 one", {{524288, 10.9894}}, {});
        CHECK(look(path).blue > 10);
        CHECK(look(path).orange == 0);
        loss_png(path, std::string(5000, 'x'), {}, {{0, 0}});
        CHECK(look(path).orange > 10);
    }
    SECTION("nothing to show leaves the axes") {
        loss_png(path, "none", {}, {});
        CHECK(look(path).blue == 0);
        loss_png(path, "none", {{1, NAN}, {2, NAN}}, {{1, INFINITY}});
        CHECK(look(path).blue == 0);
    }
    SECTION("extreme numbers") {
        loss_png(path, "same", {{1e15, 2}, {2e15, 2}}, {});
        CHECK(look(path).blue > 500);
        loss_png(path, "large", {{1, 1e300}, {2, 2e300}}, {});
        CHECK(look(path).blue > 500);
        loss_png(path, "below zero", {{1, -1}, {2, -5}}, {});
        CHECK(look(path).blue > 500);
    }
}

TEST_CASE("numbers at the axes", "[plot]") {
    CHECK(short_number(0) == "0");
    CHECK(short_number(500) == "500");
    CHECK(short_number(1500) == "1.5k");
    CHECK(short_number(2e6) == "2M");
    CHECK(short_number(999999) == "1M");
    CHECK(short_number(3e11) == "300B");
    CHECK(short_number(2.5e12) == "2.5T");
    CHECK(tick_step(10, 8) == 2);
    CHECK(tick_step(8, 8) == 1);
    CHECK(tick_step(0.3, 8) == Approx(0.05));
    CHECK(tick_step(7372800, 8) == 1e6);
    CHECK(short_loss(3.14159, 2) == "3.14");
    CHECK(short_loss(1e30, 4) == "1e+30");
}

TEST_CASE("the curve of a noisy loss ends in an average, not in one step", "[plot]") {
    std::vector<PlotPoint> noisy;
    for (int i = 0; i < 2000; i++) noisy.push_back({double(i), 3 + (i % 2 ? 0.5 : -0.5)});
    noisy.back().loss   = 9;
    const auto averages = trend(noisy);
    CHECK(averages.back().tokens == 1999);
    CHECK(averages.back().loss == Approx(3).margin(0.1));
    CHECK(averages.size() == 201);
}

TEST_CASE("the curve of a resumed run leaves out skipped steps, as that of an unbroken run does", "[plot]") {
    const Scratch dir;
    LogSettings set;
    set.folder = dir.path;
    set.steps  = 100;
    {
        Log log(set);
        for (int step = 1; step <= 3; step++)  // the loss of the second step is finite, and its norm is not
            log.step({step, float(step * step), step == 2 ? INFINITY : 1.f, 1e-3f, 0.1, step * 64, step == 2});
        log.eval(3, 192, 4.f, 0.1);
    }
    const std::string unbroken = read_text(dir / "loss.png");
    set.resumed_at             = 3;
    set.evaluates_again        = true;
    Log(set).eval(3, 192, 4.f, 0.1);
    CHECK(read_text(dir / "loss.png") == unbroken);
}
