// The record of a (chunk, value head): everything the recurrence needs to know about 32 tokens, written by the preparation
// kernel and read by every recurrence kernel. One contiguous image in global memory, in exactly the form the matrix units
// read from shared memory, so that one bulk copy fetches it.
//
// With P_i the product of the decays of the chunk up to and including token i, X_j the product of those after token j, e and
// w the strengths of erasing and writing (Update), all operands 16 bits wide:
//
//   kd[i] = P_i k_i      qd[i] = P_i q_i      kg[j] = X_j k_j      a = P_31                          (entries <= 1 for unit k, q)
//   Z[i][j] = q_i . Diag(prod_{j<t<=i} alpha_t) k_j, i >= j        T = (I + Diag(e) M)^-1, M the same with k_i and i > j
//
//   E = V - kd S          R = T' E          O = scale (qd S + Z R)          S <- Diag(a) S + kg^T R              Eqs. (6)-(9)
//
// The section kd holds -kd, so that E is a product added to V.
//
// * one strength (e = w = beta, DeltaRule):  T' = T Diag(beta)
// * two strengths:                           T' = T, kd[i] carries e_i, and the consumer forms E = Diag(w) V - kd S
// * no erasing (Additive):                   R = V; kg[j] and column j of Z carry w_j; kd and T' are absent
//
// Rows of tokens past the end of a sequence hold zeros (and count as alpha = 1), columns of Z and T' too.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/types.hpp>
#include <braid/core/update.hpp>

#include <type_traits>

namespace braid::cuda {

/// Tokens per chunk of the GPU kernels.
inline constexpr int chunk_tokens = 32;
/// Values that a warpgroup walks, or a block of the portable recurrence: the M of wgmma.
inline constexpr int value_tile = 64;

/// How an update enters the record.
enum class Strength : unsigned char { none, one, two };

/// DeltaRule, and any update that declares `static constexpr bool one_strength = true` (erase == write), needs no Diag(w).
template <class U> BRAID_FN constexpr Strength strength_of() {
  if constexpr (!U::erases) return Strength::none;
  else if constexpr (std::is_same_v<U, DeltaRule> || requires { requires U::one_strength; }) return Strength::one;
  else return Strength::two;
}

/// Byte offsets inside a record. 16-bit sections consist of the 8x8 cores that wgmma reads without a swizzle, 128 bytes each, so that a warp of the
/// preparation, which has 16 channels of 8 tokens, writes whole lines of L2.
struct Record {
  int key_dim = 128;  ///< 64 or 128
  Strength strength = Strength::one;

  /// A panel is 32 tokens (rows of 16 bytes) x 8 channels.
  static constexpr int panel_bytes = chunk_tokens * 16;
  static constexpr int square_bytes = chunk_tokens * chunk_tokens * 2;

  BRAID_FN constexpr bool erases() const { return strength != Strength::none; }
  BRAID_FN constexpr int rows_bytes() const { return key_dim / 8 * panel_bytes; }
  /// A panel of kd has one of qd behind it: as 64 rows, they give E and O in one product.
  BRAID_FN constexpr int kd() const { return 0; }                                       ///< 16-bit [32][K], panels; minus kd
  BRAID_FN constexpr int qd() const { return erases() ? panel_bytes : 0; }              ///< 16-bit [32][K], panels
  BRAID_FN constexpr int qd_panel() const { return (erases() ? 2 : 1) * panel_bytes; }  ///< distance of the panels of kd and of qd
  BRAID_FN constexpr int kg() const { return (erases() ? 2 : 1) * rows_bytes(); }       ///< 16-bit [32][K], adjacent panels
  BRAID_FN constexpr int z() const { return (erases() ? 3 : 2) * rows_bytes(); }        ///< 16-bit [32][32], cores
  BRAID_FN constexpr int t() const { return z() + square_bytes; }                       ///< 16-bit [32][32], cores
  BRAID_FN constexpr int a() const { return z() + (erases() ? 2 : 1) * square_bytes; }  ///< float [K], in the order of decay_element
  BRAID_FN constexpr int w() const { return a() + key_dim * 4; }                  ///< float [32], Strength::two only
  BRAID_FN constexpr int bytes() const { return w() + (strength == Strength::two ? chunk_tokens * 4 : 0); }

  /// Element (token, channel) of kd, qd or kg, in bytes from the section's start, `panel` from panel to panel.
  BRAID_FN static constexpr int row_element(int token, int channel, int panel = panel_bytes) {
    const auto c = static_cast<unsigned>(channel);  // no division of negative numbers
    return static_cast<int>(c / 8 * static_cast<unsigned>(panel) + c % 8 * 2) + token * 16;
  }
  /// Channel of a, in bytes: the four that a lane of a fragment has of 16 channels (2c, 2c + 1, and 8 more) lie together.
  BRAID_FN static constexpr int decay_element(int channel) {
    const auto c = static_cast<unsigned>(channel);
    return static_cast<int>((c / 16 * 4 + c % 8 / 2) * 16 + c / 8 % 2 * 8 + c % 2 * 4);
  }
  /// Element (row, column) of Z or T', in bytes, cores of one row of cores adjacent.
  BRAID_FN static constexpr int square_element(int row, int column) {
    return (row / 8 * (chunk_tokens / 8) + column / 8) * 128 + row % 8 * 16 + column % 8 * 2;
  }
};

static_assert(Record{128, Strength::one}.bytes() == 29184 && Record{64, Strength::one}.bytes() == 16640);
static_assert(Record{128, Strength::two}.bytes() % 16 == 0 && Record{64, Strength::none}.bytes() % 16 == 0);

/// Where the chunks of a packed sequence lie: chunk c of sequence n is slot first_slot(offsets[n], n) + c. Because
/// floor(b) - floor(a) + 1 >= ceil(b - a), slots of neighbours never overlap, and no scan over lengths is needed; a few stay unused.
BRAID_FN constexpr Index first_slot(Index offset, Index sequence) { return offset / chunk_tokens + sequence; }
/// Slots to reserve for T tokens in N sequences.
BRAID_FN constexpr Index slots(Index tokens, Index sequences) { return tokens / chunk_tokens + sequences; }
BRAID_FN constexpr Index chunks(Index length) { return (length + chunk_tokens - 1) / chunk_tokens; }
/// The sequence of a packed batch to which unit `unit` belongs, where sequence n has the units from offsets[n] / size + n on (first_slot
/// with chunks as units): its first token and the one after its last, and the unit's number within it.
struct Unit {
  Index begin, end, number;
  int sequence;
};
BRAID_FN Unit find_unit(const Index* offsets, Index tokens, int sequences, Index size, Index unit) {
  if (offsets == nullptr) return {0, tokens, unit, 0};
  int low = 0, high = sequences;  // the last sequence whose first unit is not above `unit`
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] / size + middle <= unit) low = middle;
    else high = middle;
  }
  return {offsets[low], offsets[low + 1], unit - (offsets[low] / size + low), low};
}

}  // namespace braid::cuda
