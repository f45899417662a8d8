#include "ctl/arguments.h"

#include <algorithm>

namespace mlcache::ctl {

std::string Arguments::Value(const std::string& name, const std::string& otherwise) const {
  const auto found = options.find(name);
  return found == options.end() ? otherwise : found->second;
}

Result<Arguments> ParseArguments(const std::vector<std::string>& words, const std::vector<OptionForm>& forms) {
  Arguments arguments;
  bool options_ended = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (options_ended || !word.starts_with('-') || word == "-") {
      arguments.paths.push_back(word);
      continue;
    }
    if (word == "--") {
      options_ended = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto form = std::ranges::find(forms, name, &OptionForm::name);
    if (form == forms.end()) return Fail(Code::kInvalidArgument, "unknown option " + name);
    const bool has_value = equals != std::string::npos;
    if (has_value && !form->takes_value) return Fail(Code::kInvalidArgument, "option " + name + " takes no value");
    if (form->takes_value && !has_value && i + 1 == words.size())
      return Fail(Code::kInvalidArgument, "option " + name + " needs a value");
    if (!form->takes_value) {
      arguments.options[name] = "";
    } else {
      arguments.options[name] = has_value ? word.substr(equals + 1) : words[++i];
    }
  }
  return arguments;
}

}  // namespace mlcache::ctl
