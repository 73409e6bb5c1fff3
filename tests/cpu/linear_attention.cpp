// Linear attention of the CPU backend against the float64 reference: every cell of the table, both forms, odd sizes.
#include "cpu/linear_attention_support.hpp"

#include <doctest/doctest.h>

using namespace braid;
using namespace braid::test;

namespace {

// Both sides compute in double by different orders of summation. One sum has at most some hundred terms and errors are carried through at
// most 200 contracting steps: 1e-12 leaves room for a condition number of about 20.
constexpr double limit = 1e-12;
// A vector of one element is its own direction: of the gradient of x / sqrt(x^2 + epsilon) only the share epsilon / (x^2 + epsilon) remains
// of terms that cancel, each rounded a few times. x^2 is below 9 in the problems here.
constexpr double one_key_limit = 8 * 0x1p-53 * 9 / l2_norm_epsilon;

template <class Gate, class Update, class Form> void compare(const LinearAttentionSizes& sizes, std::uint64_t number) {
  static cpu::Context ctx;
  const auto p = random_problem<Gate, Update>(sizes, number);
  const double keys_limit = p.normalize && p.key_dim == 1 ? one_key_limit : limit;
  const auto worst = cpu_results<Gate, Update, Form>(ctx, p).worst(reference_results<Gate, Update>(p), limit, keys_limit);
  CAPTURE(worst.where);
  CAPTURE(worst.error);
  CHECK(worst.within);
}

template <class Gate, class Update> void check_cell() {
  // 1, chunk - 1, chunk, chunk + 1, empty sequences, grouped values, dims that fill no vector
  const LinearAttentionSizes ragged{{1, 15, 0, 16, 17, 0, 63, 64, 65, 0}, 1, 2, 13, 9}, wide{{70, 130}, 2, 2, 32, 48}, tiny{{3}, 1, 1, 1, 1};
  compare<Gate, Update, Recurrent>(ragged, 1);
  compare<Gate, Update, Recurrent>(wide, 2);
  compare<Gate, Update, Recurrent>(tiny, 3);
  compare<Gate, Update, Chunkwise<16>>(ragged, 4);
  compare<Gate, Update, Chunkwise<32>>(ragged, 5);
  compare<Gate, Update, Chunkwise<64>>(ragged, 6);
  compare<Gate, Update, Chunkwise<64>>(wide, 7);
  compare<Gate, Update, Chunkwise<128>>(wide, 8);
  compare<Gate, Update, Chunkwise<64>>(tiny, 9);
  compare<Gate, Update, Chunkwise<64>>({{0, 0}, 1, 1, 4, 4}, 10);
}

}  // namespace

// With sanitizers a cell takes most of a minute to compile: then each update and each kind of decay once.
TEST_CASE("additive updates") {
  check_cell<NoDecay, Additive>();
#ifndef BRAID_SANITIZED
  check_cell<LogDecay<Decay::per_head>, Additive>();
  check_cell<LogDecay<>, Additive>();
#endif
}

TEST_CASE("delta rule") {
  check_cell<PerHead<SoftplusGate>, DeltaRule>();
  check_cell<SoftplusGate, DeltaRule>();
#ifndef BRAID_SANITIZED
  check_cell<NoDecay, DeltaRule>();
  check_cell<BoundedGate<-5>, DeltaRule>();
#endif
}

TEST_CASE("diagonal plus low rank") {
  check_cell<LogDecay<>, Dplr>();
#ifndef BRAID_SANITIZED
  check_cell<NoDecay, Dplr>();
  check_cell<LogDecay<Decay::per_head>, Dplr>();
#endif
}
