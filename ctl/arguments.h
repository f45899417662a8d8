// The words behind a verb, sorted into options and paths. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/status.h"

namespace mlcache::ctl {

struct OptionForm {
  std::string name;  // "--json", "-f"
  bool takes_value = false;
};

struct Arguments {
  std::map<std::string, std::string> options;  // by name; "" for those without a value
  std::vector<std::string> paths;

  bool Has(const std::string& name) const { return options.contains(name); }
  std::string Value(const std::string& name, const std::string& otherwise) const;
};

// "--name=value", "--name value", "-f value"; "--" ends the options. kInvalidArgument names an unknown option, a
// missing or a surplus value.
Result<Arguments> ParseArguments(const std::vector<std::string>& words, const std::vector<OptionForm>& forms);

}  // namespace mlcache::ctl
