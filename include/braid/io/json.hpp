// JSON from outside, parsed strictly: no duplicate keys, no depth bombs, no bytes after the end, and braid::Error for all of it.
#pragma once

#include <braid/core/error.hpp>

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace braid::io {

using Json = nlohmann::json;

/// Parses `text`, which must be one JSON object and nothing else but white space. `where` names it in errors.
inline Json parse_json_object(std::string_view text, const std::string& where) {
  constexpr int depth_limit = 32;
  require(text.find('\0') == text.npos, where, "JSON text", "a zero byte");
  std::vector<std::set<std::string>> keys;  // one set per enclosing object
  auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    require(depth < depth_limit, where, braid::detail::text("JSON nested at most ", depth_limit, " deep"), "more");
    using Event = Json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys.back().insert(key).second, where, "each key once", "\"" + key + "\" twice");
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    throw Error(where, "valid JSON", error.what());
  }
  require(json.is_object(), where, "a JSON object", json.type_name());
  return json;
}

}  // namespace braid::io
