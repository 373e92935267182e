#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include "shim_toml.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <sstream>
#include <string>
#include <toml++/toml.h>
#include <utility>
#include <vector>

namespace {

class Walk {
  public:
    Walk(crfs_toml_callback callback, void *context) : callback(callback), context(context) {}

    void node(const toml::node &value, const toml::key *key);

  private:
    void table(const toml::table &members);
    void end();

    crfs_toml_callback callback;
    void *context;
};

void Walk::end() {
    crfs_toml_node node = {};
    node.kind = crfs_toml_end;
    callback(context, &node);
}

// toml++ sorts a table's members by name; where they stood decides here.
void Walk::table(const toml::table &members) {
    std::vector<std::pair<const toml::key *, const toml::node *>> ordered;
    ordered.reserve(members.size());
    for (auto &&[key, value] : members) ordered.emplace_back(&key, &value);
    std::sort(ordered.begin(), ordered.end(), [](auto &a, auto &b) {
        return a.first->source().begin < b.first->source().begin;
    });
    for (auto &[key, value] : ordered) node(*value, key);
}

void Walk::node(const toml::node &value, const toml::key *key) {
    crfs_toml_node node = {};
    std::string date;
    node.line = value.source().begin.line;
    if (key != nullptr) {
        node.key = key->str().data();
        node.key_size = key->str().size();
        node.line = key->source().begin.line;
    }
    if (auto *members = value.as_table()) {
        node.kind = crfs_toml_table;
        callback(context, &node);
        table(*members);
        return end();
    }
    if (auto *items = value.as_array()) {
        node.kind = crfs_toml_array;
        callback(context, &node);
        for (auto &&item : *items) this->node(item, nullptr);
        return end();
    }
    if (auto *text = value.as_string()) {
        node.kind = crfs_toml_string;
        node.text = text->get().data();
        node.text_size = text->get().size();
    } else if (auto *integer = value.as_integer()) {
        node.kind = crfs_toml_integer;
        node.integer = integer->get();
    } else if (auto *number = value.as_floating_point()) {
        node.kind = crfs_toml_float;
        node.number = number->get();
    } else if (auto *boolean = value.as_boolean()) {
        node.kind = crfs_toml_boolean;
        node.integer = boolean->get() ? 1 : 0;
    } else {
        node.kind = crfs_toml_date;
        std::ostringstream stream;
        if (auto *day = value.as_date()) stream << day->get();
        if (auto *time = value.as_time()) stream << time->get();
        if (auto *moment = value.as_date_time()) stream << moment->get();
        date = stream.str();
        node.text = date.data();
        node.text_size = date.size();
    }
    callback(context, &node);
}

} // namespace

int crfs_toml_parse(
    const char *text, size_t size, crfs_toml_callback callback, void *context, crfs_toml_failure *failure) {
    std::memset(failure, 0, sizeof *failure);
    try {
        toml::parse_result result = toml::parse(std::string_view(text, size));
        if (!result) {
            auto reason = result.error().description();
            std::snprintf(failure->reason, sizeof failure->reason, "%.*s", int(reason.size()), reason.data());
            failure->line = result.error().source().begin.line;
            return 0;
        }
        Walk(callback, context).node(result.table(), nullptr);
        return 1;
    } catch (const std::bad_alloc &) {
        std::snprintf(failure->reason, sizeof failure->reason, "no memory for it");
        return 0;
    }
}
