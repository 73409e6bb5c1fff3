// Splitting text into the pieces within which byte pairs merge, by the published pattern, with PCRE2.
#pragma once

#include <braid/core/error.hpp>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <memory>
#include <string_view>

namespace braid::io {

/// The split pattern of the published tokenizer (tokenization_kimi.py), an alternation of: a run of Han characters; a word with
/// capitals first and an optional English contraction; likewise a word in capitals; up to three digits; punctuation; white space
/// before line ends; white space but for its last character; white space.
///
/// The published form is in the syntax of Rust's regex crate. Here it is in that of PCRE2, changed where the two differ:
///  - [A&&[^\p{Han}]] with A = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] is the complement of all other categories and Han;
///  - \p{Han} is the script, in PCRE2 \p{sc:Han}, as its \p{Han} also takes characters that other scripts share;
///  - \s is White_Space, spelled out, as PCRE2's \s also takes U+180E.
/// PCRE2 10.42 knows the characters of Unicode 14. Han characters that came later (extensions H and I, U+2B739) are named here; the
/// letters of a few scripts added in Unicode 15 and 16 (Kawi, Nag Mundari, Garay, Tulu-Tigalari, ...) count as punctuation until a
/// newer PCRE2 is installed. All other characters agree, which tests/reference/tokenizer.py checks one by one.
#define BRAID_NEW_HAN "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define BRAID_HAN "\\p{sc:Han}" BRAID_NEW_HAN
#define BRAID_LETTER "\\p{L}" BRAID_NEW_HAN
#define BRAID_SPACE "\\t-\\r\\x{85}\\p{Z}"
#define BRAID_UPPER "[^\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" BRAID_HAN "]"
#define BRAID_LOWER "[^\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" BRAID_HAN "]"
#define BRAID_BEFORE "[^\\r\\n" BRAID_LETTER "\\p{N}]?"
#define BRAID_CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
inline constexpr char split_pattern[] =
    "[" BRAID_HAN "]+"
    "|" BRAID_BEFORE BRAID_UPPER "*" BRAID_LOWER "+" BRAID_CONTRACTION
    "|" BRAID_BEFORE BRAID_UPPER "+" BRAID_LOWER "*" BRAID_CONTRACTION
    "|\\p{N}{1,3}"
    "| ?[^" BRAID_SPACE BRAID_LETTER "\\p{N}]+[\\r\\n]*"
    "|[" BRAID_SPACE "]*[\\r\\n]+"
    "|[" BRAID_SPACE "]+(?![^" BRAID_SPACE "])"
    "|[" BRAID_SPACE "]+";
#undef BRAID_NEW_HAN
#undef BRAID_HAN
#undef BRAID_LETTER
#undef BRAID_SPACE
#undef BRAID_UPPER
#undef BRAID_LOWER
#undef BRAID_BEFORE
#undef BRAID_CONTRACTION

/// A compiled split pattern. Thread-safe.
class Splitter {
 public:
  /// Throws Error if the pattern does not compile.
  explicit Splitter(const char* pattern = split_pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &error,
                                &offset, nullptr));
    require(code_ != nullptr, "Splitter", "a pattern that PCRE2 compiles", braid::detail::text("error ", error, " at ", offset));
    jit_ = pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// Calls `visit(std::string_view piece)` for the pieces of `text`, which must be valid UTF-8, from left to right. They add up to it.
  template <class Visit> void split(std::string_view text, Visit&& visit) const {
    const std::unique_ptr<pcre2_match_data_8, Free> match(pcre2_match_data_create_8(1, nullptr));
    require(match != nullptr, "Splitter", "memory", "none left");
    const auto* subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    for (std::size_t begin = 0; begin < text.size();) {
      int found = PCRE2_ERROR_JIT_STACKLIMIT;
      if (jit_) found = pcre2_jit_match_8(code_.get(), subject, text.size(), begin, 0, match.get(), nullptr);
      if (found == PCRE2_ERROR_JIT_STACKLIMIT)  // also without JIT: slower, but with more room
        found = pcre2_match_8(code_.get(), subject, text.size(), begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(), nullptr);
      const std::size_t end = found > 0 ? pcre2_get_ovector_pointer_8(match.get())[1] : begin;
      require(end > begin, "Splitter", "a match for every character", braid::detail::text("PCRE2 result ", found, " at byte ", begin));
      visit(text.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  struct Free {
    void operator()(pcre2_code_8* code) const { pcre2_code_free_8(code); }
    void operator()(pcre2_match_data_8* data) const { pcre2_match_data_free_8(data); }
  };
  std::unique_ptr<pcre2_code_8, Free> code_;
  bool jit_ = false;
};

}  // namespace braid::io
