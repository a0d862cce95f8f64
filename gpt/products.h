// products.h - products.json in the folder of a run: the algorithm of cuBLASLt, or the kernel of ours, that each
// product takes
//
// --tune times the ways to compute every product in the first step that needs it. What was chosen is written at once,
// before anything that depends on it is saved. A run that finds the file uses it, so a resumed run has the same bits,
// and so has another run into whose folder the file was copied. It holds for one version of cuBLASLt on one kind of
// GPU:
//
//   {"for": "cuBLASLt 13.1.0 on NVIDIA H100 80GB HBM3",
//    "products": [{"product": "(8192, 50304) bf16 = …", "algorithm": "…", "us": 844.1, "first_us": 888.0,
//                  "ours": "hopper 128x256, 132 blocks", "ours_us": 861.5}, …]}
//
// `first_us` is the time of cuBLASLt's first choice, `ours_us` that of the fastest of our kernels, where they run.
#pragma once
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gpt/run.h"

inline std::vector<ProductChoice> read_products(const std::string& path, const std::string& library) {
    const Fields file(path);
    const std::string theirs = file.text("for", "");
    CHECK(theirs == library,
          "{}: these algorithms were chosen for {}, and this is {}\n    Without the file a run takes cuBLASLt's first "
          "choices, and --tune times them anew; the last bits of its results then differ.",
          path, theirs.empty() ? "an unknown library" : theirs, library);
    CHECK(file.has("products") && file.raw("products").is_array(), "{}: the field \"products\" is not a list", path);
    std::vector<ProductChoice> choices;
    for (const nlohmann::json& row : file.raw("products")) {
        const auto text = [&](const char* name) {
            CHECK(row.is_object() && row.contains(name) && row[name].is_string(),
                  "{}: a row of \"products\" has no text \"{}\": {}", path, name, row.dump().substr(0, 200));
            return row[name].get<std::string>();
        };
        const auto us = [&](const char* name) {
            return row.contains(name) && row[name].is_number() ? row[name].get<double>() : 0.;
        };
        choices.push_back({text("product"), text("algorithm"), us("us") * 1e-6, us("first_us") * 1e-6,
                           row.contains("ours") ? text("ours") : "", us("ours_us") * 1e-6});
    }
    return choices;
}

inline void write_products(const std::string& path, const std::string& library,
                           const std::vector<ProductChoice>& choices) {
    const auto tenths           = [](double seconds) { return std::round(seconds * 1e7) / 10; };
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const ProductChoice& c : choices) {
        nlohmann::ordered_json row = {{"product", c.product}, {"algorithm", c.algorithm}};
        if (c.seconds > 0) row.update({{"us", tenths(c.seconds)}, {"first_us", tenths(c.seconds_of_first)}});
        if (!c.ours.empty()) row.update({{"ours", c.ours}, {"ours_us", tenths(c.seconds_of_ours)}});
        rows.push_back(row);
    }
    write_file(path, nlohmann::ordered_json{{"for", library}, {"products", rows}}.dump(2) + "\n");
}

// Makes the products of a run take the algorithms of its products.json, and with --tune adds to it those that it lacks.
// Call it before the first step.
inline void choose_products(const Run& run) {
    const std::string path = run.folder() + "/products.json", library = product_library(run.device);
    const bool tune = run.options.tune;
    CHECK(!tune || !library.empty(), "--tune is for GPUs: the products of a CPU have one algorithm");
    if (library.empty() || (!tune && !fs::exists(path))) return;
    const auto choices = std::make_shared<std::vector<ProductChoice>>();
    if (fs::exists(path)) *choices = read_products(path, library);
    CHECK(!tune || run.ranks.world == 1 || !choices->empty(),
          "--tune times products in one process, and these are {}: tune in one process with the same --batch and "
          "--steps 1, copy its products.json to {}, and start without --tune",
          run.ranks.world, path);
    std::function<void(const ProductChoice&)> timed;
    if (tune && run.ranks.world == 1)
        timed = [=](const ProductChoice& choice) {
            choices->push_back(choice);
            write_products(path, library, *choices);
        };
    choose_products(run.device, *choices, path, timed);
}
