// matmul_hopper.h - products by our own kernels for Hopper: which there are, and how to run one
#pragma once
#ifdef __CUDACC__
#include <optional>
#include <string>
#include <vector>

#include "product.h"
#include "queue.cuh"

namespace gpu {

// One way to compute a product with these kernels: the size of the tiles of c, how many blocks compute them, whether
// pairs of blocks load b together, and whether blocks share tiles along K. str() says that in words, which
// products.json keeps. read_hopper_way() reads such words, and returns nothing for other words.
struct HopperWay {
    int M = 0, N = 0, blocks = 0;
    bool pairs = false, split = false;
    std::string str() const;
};
std::optional<HopperWay> read_hopper_way(const std::string& words);

bool has_hopper_products(const Queue& q);               // it is a Hopper, and the program was compiled for it
bool can_take(const Product& p, const HopperWay& way);  // the way exists for this product
std::vector<HopperWay> hopper_ways(const Product& p, const Queue& q);  // those that are worth timing, if any

// Runs it. The workspace has workspace_bytes.
void run_on_hopper(const Product& p, const HopperWay& way, const Operands& o, void* workspace, Queue& q);

}  // namespace gpu
#endif
