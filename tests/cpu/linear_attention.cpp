// Linear attention of the CPU backend against the float64 reference: every cell of the table, both forms, odd sizes.
#include "cpu/linear_attention_support.hpp"

#include <doctest/doctest.h>

using namespace braid;
using namespace braid::test;

namespace {

// Both sides compute in double by different orders of summation. One sum has at most some hundred terms and errors are carried through at
// most 200 contracting steps: 1e-12 leaves room for a condition number of about 20.
constexpr double limit = 1e-12;

template <class Gate, class Update, class Form> void compare(const LinearAttentionSizes& sizes, std::uint64_t number) {
  static cpu::Context ctx;
  const auto p = random_problem<Gate, Update>(sizes, number);
  const auto worst = cpu_results<Gate, Update, Form>(ctx, p).worst(reference_results<Gate, Update>(p), limit);
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

TEST_CASE("additive updates") {
  check_cell<NoDecay, Additive>();
  check_cell<LogDecay<Decay::per_head>, Additive>();
  check_cell<LogDecay<>, Additive>();
}

TEST_CASE("delta rule") {
  check_cell<NoDecay, DeltaRule>();
  check_cell<PerHead<SoftplusGate>, DeltaRule>();
  check_cell<SoftplusGate, DeltaRule>();
  check_cell<BoundedGate<-5>, DeltaRule>();
}

TEST_CASE("diagonal plus low rank") {
  check_cell<NoDecay, Dplr>();
  check_cell<LogDecay<Decay::per_head>, Dplr>();
  check_cell<LogDecay<>, Dplr>();
}
