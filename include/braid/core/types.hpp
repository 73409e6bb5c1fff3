// Index, token and element types shared by all floors.
#pragma once

#include <cstdint>

namespace braid {

using Index = std::int64_t;  ///< sizes and offsets, in elements
using Token = std::int32_t;  ///< a token id, 0 <= id < vocab

/// The element type of a model's parameters and activations. Names are those of the safetensors format.
enum class DType : std::uint8_t { f32, f64, bf16, f16 };

namespace detail {
template <DType> struct ScalarOf;
template <> struct ScalarOf<DType::f32> { using type = float; };
template <> struct ScalarOf<DType::f64> { using type = double; };
}  // namespace detail

/// The C++ type of a DType: float for f32, double for f64.
template <DType D> using scalar_t = typename detail::ScalarOf<D>::type;

}  // namespace braid
