#include <braid/core/linear_attention.hpp>

struct Longhorn {  // a complete update: beta / (1 + beta |k|^2)
#ifdef no_constants  // braid: an update needs constants `uses_beta`, `erases` and functions `erase(beta, norm2)`, `write(beta, norm2)`
#else
  static constexpr bool uses_beta = true;
  static constexpr bool erases = true;
#endif
  template <class T> BRAID_FN static T erase(T beta, T norm2) { return beta / (T(1) + beta * norm2); }
#ifdef no_write  // braid: an update needs constants `uses_beta`, `erases` and functions `erase(beta, norm2)`, `write(beta, norm2)`
#else
  template <class T> BRAID_FN static T write(T beta, T norm2) { return erase(beta, norm2); }
#endif
#ifdef no_derivative  // braid: an update needs `template <class T> BRAID_FN static braid::UpdateDerivative<T> derivative(T beta, T norm2)`
#else
  template <class T> BRAID_FN static braid::UpdateDerivative<T> derivative(T beta, T norm2) {
    const T inverse = T(1) / (T(1) + beta * norm2), d_beta = inverse * inverse, d_norm = -beta * beta * d_beta;
    return {d_beta, d_norm, d_beta, d_norm};
  }
#endif
};

void door(const braid::LinearAttentionInputs<float>& in) { braid::check_linear_attention<braid::SoftplusGate, Longhorn>(in); }

constexpr int size =
#ifdef chunk_of_48  // braid: Chunkwise<Size> takes 16, 32, 64 or 128 tokens per chunk
    48;
#else
    64;
#endif
static_assert(braid::Chunkwise<size>::chunk == size);
