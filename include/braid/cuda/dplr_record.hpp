// The record of a (chunk, value head) for general DPLR, S <- (Diag(alpha) - a b^T) S + k v^T (section 6.2). As record.hpp, with b read
// before the decay. P, X as there, Px_i the product of the decays of the chunk before token i (exclusive), y_i = b_i^T S_{i-1}:
//
//   qd[i] = P_i q_i      bd[i] = Px_i b_i      kg[j] = X_j k_j      ag[j] = X_j a_j
//   Aqk, Aqa [i][j] = q_i . Diag(prod_{j<t<=i} alpha_t) k_j, a_j, i >= j          Abk, Aba [i][j] = b_i . Diag(prod_{j<t<i} alpha_t) k_j, a_j, i > j
//   T = -(I + Aba)^-1
//
//   -Y = T (bd S + Abk V)      O = scale (qd S + Aqk V + Aqa (-Y))      S <- Diag(P_31) S + kg^T V + ag^T (-Y)
#pragma once

#include <braid/cuda/record.hpp>

namespace braid::cuda {

/// Byte offsets inside a record; elements lie as Record::row_element and Record::square_element say.
struct DplrRecord {
  int key_dim = 128;  ///< 64 or 128

  BRAID_FN constexpr int rows_bytes() const { return key_dim / 8 * Record::panel_bytes; }
  BRAID_FN constexpr int qd() const { return 0; }
  BRAID_FN constexpr int bd() const { return rows_bytes(); }
  BRAID_FN constexpr int kg() const { return 2 * rows_bytes(); }
  BRAID_FN constexpr int ag() const { return 3 * rows_bytes(); }
  BRAID_FN constexpr int aqk() const { return 4 * rows_bytes(); }
  BRAID_FN constexpr int aqa() const { return aqk() + Record::square_bytes; }
  BRAID_FN constexpr int abk() const { return aqa() + Record::square_bytes; }
  BRAID_FN constexpr int t() const { return abk() + Record::square_bytes; }
  BRAID_FN constexpr int a() const { return t() + Record::square_bytes; }  ///< float [K]
  BRAID_FN constexpr int bytes() const { return a() + key_dim * 4; }
};

static_assert(DplrRecord{128}.bytes() == 41472 && DplrRecord{64}.bytes() == 24832);

}  // namespace braid::cuda
