"""Renders small templates with the Jinja of transformers; writes jinja_cases.json beside this file.

Needs transformers and jinja2. Each case is a feature that chat templates use; what it gives in Python is the truth.
"""

import json
import os

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be <brief> & \"kind\"."},
        {"role": "user", "content": "  Hello\tthere \u00e9\u4e2d\U0001f600\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfine", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [True, None, "x'y", 0.5], "c": {"d": {}}}}}]},
        {"role": "tool", "content": "{\"t\": -3.0}", "name": "f"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "Does <f> & 'more'\n\u00e9\u2028",
               "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": ["integer", "null"], "enum": [1, 2]}},
                              "required": ["z"]}}}],
    "documents": None,
    "add_generation_prompt": True,
    "empty": "", "none": None, "zero": 0, "yes": True, "no": False, "int": 42, "neg": -7, "float": 2.5, "whole": 3.0,
    "big": 1e16, "tiny": 0.00001, "large": 123456789012345678, "list": [3, 1, 2], "nested": {"b": {"c": [1, {"d": "e"}]}, "a": 1},
    "text": "Hello World", "spaces": "  a  b ", "lines": "one\ntwo\r\nthree\n\n", "quote": "it's \"q\" \\ /", "control": "a\x00b\x1f\x7f\u00a0",
}

TEMPLATES = [
    # how values are spelt
    "{{ yes }} {{ no }} {{ none }} {{ int }} {{ neg }} {{ float }} {{ whole }} {{ big }} {{ tiny }} {{ large }}",
    "{{ list }} {{ nested }} {{ messages[2].tool_calls[0].function.arguments }}",
    "{{ yes|string }} {{ none|string }} {{ float|string }} {{ list|string }} {{ nested|string }} {{ big|string }}",
    "{{ 'a' ~ yes ~ none ~ int ~ float ~ list }}",
    "{{ undefined_name }}|{{ messages[0].nothing }}|{{ undefined_name|default('d') }}|{{ empty|default('d') }}|{{ empty|default('d', true) }}",
    "{{ [1, 'a', none, yes, 0.5] }} {{ {'a': 1, 'b': [2]} }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }}",
    "{{ quote }} {{ [quote] }} {{ ['a\\nb', \"it's\", 'say \"x\"'] }}",
    # tojson
    "{{ tools|tojson }}", "{{ tools[0]|tojson(indent=2) }}", "{{ tools[0]|tojson(indent=4) }}", "{{ messages|tojson }}",
    "{{ tools[0].function.description|tojson(ensure_ascii=True) }}", "{{ nested|tojson(sort_keys=True) }}",
    "{{ nested|tojson(separators=(',', ':')) }}", "{{ control|tojson }}{{ quote|tojson }}", "{{ [big, tiny, whole, large, neg, none]|tojson }}",
    "{{ {'a': [], 'b': {}}|tojson(indent=2) }}", "{{ 'x'|tojson }}{{ 1|tojson }}{{ none|tojson }}{{ yes|tojson }}",
    "{{ {'z': 1, 'a': 2, 'm': text}|tojson }}", "{{ {1: 'a', none: 'b', no: 'c'}|tojson }}", "{{ (1, 2)|tojson }}",
    "{{ text|tojson|safe }}", "{{ messages[1].content|tojson }}",
    # strings
    "{{ text.upper() }} {{ text.lower() }} {{ text.title() }} {{ 'abc'.capitalize() }} {{ text|upper }} {{ text|lower }} {{ text|title }} {{ text|capitalize }}",
    "[{{ spaces.strip() }}] [{{ spaces.lstrip() }}] [{{ spaces.rstrip() }}] [{{ spaces|trim }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'xyaxy'.rstrip('yx') }}] [{{ 'xay'|trim('xy') }}]",
    "{{ text.split() }} {{ spaces.split() }} {{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ spaces.split(' ') }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a b c'.split(maxsplit=1) }} {{ 'a--b'.split(sep='--') }}",
    "{{ lines.splitlines() }} {{ lines.splitlines(true) }}",
    "{{ text.startswith('Hell') }} {{ text.endswith(('x', 'World')) }} {{ text.find('o') }} {{ text.rfind('o') }} {{ text.find('zz') }} {{ text.count('l') }} {{ text.index('W') }}",
    "{{ text.replace('o', '0') }} {{ text.replace('o', '0', 1) }} {{ text|replace('l', 'L') }} {{ text|replace('l', 'L', 2) }} {{ 'ab'.replace('', '-') }}",
    "{{ text.removeprefix('Hello ') }} {{ text.removesuffix('World') }} {{ text.removeprefix('x') }} {{ text.partition(' ') }} {{ text.rpartition('o') }} {{ text.partition('zz') }}",
    "{{ ', '.join(['a', 'b']) }} {{ list|join('-') }} {{ messages|map(attribute='role')|join(',') }} {{ ['a', none, 1, yes]|join('|') }}",
    "{{ text[0] }} {{ text[-1] }} {{ text[1:4] }} {{ text[::-1] }} {{ text[:-3] }} {{ text[-3:] }} {{ text[::2] }} {{ text[20:] }}",
    "{{ text|length }} {{ messages[1].content|length }} {{ list|length }} {{ nested|length }} {{ ''|length }}",
    "{{ '%s is %d' % ('a', 3) }}", "{{ '{} and {}'.format('a', 1) }}", "{{ '%s-%s'|format('a', 'b') }}", "{{ '{:>5}|{:.2f}'.format('a', 2.5) }}",
    "{{ 'a' in 'abc' }} {{ 'd' not in 'abc' }} {{ 1 in list }} {{ 'a' in nested }} {{ 'role' in messages[0] }} {{ 'x' in empty }}",
    "{{ 'a' < 'b' }} {{ 'abc' == 'abc' }} {{ 1 == 1.0 }} {{ yes == 1 }} {{ none == false }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ 'a' != 'b' }}",
    "{{ 'abc' * 2 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 6 / 2 }} {{ 1 + 2 * 3 }}",
    "{{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ 'AB'.isupper() }} {{ ' '.isspace() }} {{ 'ab'.islower() }}",
    "{{ '\\u00e9\\t\\'x\\'' }}{{ \"\\n\" }}|", "{{ 'a' 'b' }}",
    "{{ spaces|indent(2) }}|{{ lines|indent(4) }}|{{ lines|indent(2, true) }}|{{ lines|indent(width=2, first=true, blank=true) }}",
    "{{ 'a b c d'|wordcount }}", "{{ 'hello world'|truncate(5) }}", "{{ '<a>'|e }}{{ '<a>'|escape }}", "{{ 'a b'|urlencode }}", "{{ '<b>x</b>'|striptags }}",
    # tests
    "{% for v in [text, empty, none, zero, yes, int, float, list, nested, (1, 2), undefined_name] %}{{ v is string }} {{ v is number }} {{ v is integer }} {{ v is float }} {{ v is boolean }} {{ v is mapping }} {{ v is sequence }} {{ v is iterable }} {{ v is none }} {{ v is defined }} {{ v is undefined }} {{ v is true }} {{ v is false }}\n{% endfor %}",
    "{{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 1 is sameas 1 }} {{ 'a' is eq 'a' }} {{ 1 is in [1] }} {{ 2 is gt 1 }} {{ 'ab' is lower }} {{ text is callable }} {{ range is callable }}",
    "{% if not messages %}a{% elif messages|length > 3 and (yes or no) %}b{% else %}c{% endif %}{{ 'x' if no }}|{{ 'x' if no else 'y' }}",
    # loops and scopes
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ m.role }};{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }},{% endfor %}{% for m in messages[1:] %}{{ m['role'] }},{% endfor %}{% for m in messages|reverse %}{{ m.role }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.role }}{% else %}none{% endfor %}{% for m in [] %}x{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ m.role }} {% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if not loop.last else '-' }} {% endfor %}",
    "{% for k, v in nested.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in nested|items %}{{ k }};{% endfor %}{% for k in nested %}{{ k }};{% endfor %}{% for k, v in nested|dictsort %}{{ k }};{% endfor %}",
    "{% for k in nested.keys() %}{{ k }}{% endfor %}{% for v in nested.values() %}{{ v }}{% endfor %}{{ nested.keys()|list }} {{ nested.values()|list }} {{ nested.items()|list }}",
    "{% set ns = namespace(a=1, found=false) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.a = ns.a + 1 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.a }} {{ ns.found }}",
    "{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set block %}in {{ a }}{% endset %}{{ block }}{{ block|upper }}",
    "{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m('x')|length }}{{ m(1) ~ 'z' }}",
    "{% macro rec(v, d) %}{% if v is mapping %}{% for k, w in v|items %}{{ '  ' * d }}{{ k }}:\n{{ rec(w, d + 1) }}{% endfor %}{% else %}{{ '  ' * d }}{{ v }}\n{% endif %}{% endmacro %}{{ rec(nested, 0) }}",
    "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}x{% endcall %}", "{% filter upper %}abc{% endfilter %}", "{% with a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{{ range(5)|list }} {{ range(1, 6, 2)|list }} {{ range(3)|sum }} {% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}{% endfor %}{% endfor %}",
    "{{ dict(a=1, b=2) }} {{ nested.get('a') }} {{ nested.get('x') }} {{ nested.get('x', 5) }} {{ nested['a'] }} {{ nested.b.c[1].d }}",
    # filters over lists
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', 'eq', 'user')|map(attribute='role')|list }} {{ messages|selectattr('tool_calls', 'defined')|list|length }} {{ messages|selectattr('name')|map(attribute='name')|first }}",
    "{{ list|sort }} {{ list|sort(reverse=true) }} {{ list|first }} {{ list|last }} {{ list|max }} {{ list|min }} {{ list|sum }} {{ [1, 1, 2]|unique|list }} {{ list|reverse|list }} {{ messages|map(attribute='role')|unique|list }}",
    "{{ list|map('string')|list }} {{ ['a', 'b']|map('upper')|join }} {{ list|select('gt', 1)|list }} {{ [0, 1]|reject('eq', 0)|list }} {{ [[1, 2], [3]]|map('length')|list }} {{ messages|groupby('role')|map('first')|list }}",
    "{{ list|batch(2)|list }} {{ 'abc'|list }} {{ nested|list }} {{ '3'|int + 1 }} {{ '3.5'|float }} {{ 'x'|int }} {{ 3.7|int }} {{ 3.14159|round(2) }} {{ 2.5|round }} {{ -3|abs }} {{ 'x'|int(7) }}",
    "{{ messages|length - 1 }} {{ (messages|length - 1) is odd }} {{ messages[-1].content[0].text }} {{ messages[4]['content'][1]['type'] }}",
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ rest|length }}",
    "{{ messages[4].content|map(attribute='text')|select('string')|join(' ') }} {{ messages[4].content|selectattr('type', 'in', ['text'])|list|length }}",
    # white space
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n\n", "a {%- if yes -%} b {%- endif -%} c", "a\n{{ 'x' }}\n\nb", "{{- 'a' -}}  b\n", "  {# c #}\n  x {# d #}\ny",
    "{%- for m in messages -%}\n  {{- m.role -}}\n{%- endfor -%}\n", "a\n  {%+ if yes %}b{% endif +%}\nc", "{% raw %}{{ x }} {% y %}{% endraw %}z", "a\n    {{ int }}\n  {%- set z = 1 %}\n  {{ z }}\n",
    "{% generation %}a{% endgeneration %}b", "x\n{%- generation -%}\n a \n{%- endgeneration -%}\n b", "{% for m in messages %}\n{% generation %}\n{{ m.role }}\n{% endgeneration %}\n{% endfor %}\n",
    # what real templates do
    "{% set c = messages[2].content %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}[{{ r }}][{{ c }}]",
    "{% for k, v in messages[2].tool_calls[0].function.arguments|items %}{{ k }}={{ v|tojson if v is mapping or v is sequence and v is not string else v|string }};{% endfor %}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{ '<' ~ k ~ '>' }}{{ v|tojson }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{%- macro visible(c) -%}{%- if c is string -%}{{ c }}{%- elif c is iterable and c is not mapping -%}{%- for i in c -%}{%- if i is mapping and i.type == 'text' -%}{{ i.text }}{%- elif i is string -%}{{ i }}{%- endif -%}{%- endfor -%}{%- else -%}{{ c }}{%- endif -%}{%- endmacro -%}{% for m in messages %}{{ visible(m.content) }}|{% endfor %}",
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' and not (m.content is string and m.content.startswith('<x>')) %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}",
    "{{ messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' }}{{ (messages[1].content or '')|trim }}{{ messages[1].get('tool_calls', []) }}",
    "{% for tool in tools %}{% set tool = tool.function %}{{ tool.name }}({% for n, p in tool.parameters.properties.items() %}{{ n }}: {{ p.type }}{% if n in tool.parameters.required %}!{% endif %}{% if p.enum is defined %} {{ p.enum|join('|') }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}",
    "{% if tools is defined and tools is not none and tools %}T{% endif %}{% if documents %}D{% endif %}{% if (x is defined and x) or yes %}Y{% endif %}",
    "{{ strftime_now('%d %b %Y')|length > 5 }}", "{{ raise_exception('Roles must <alternate> & \"end\"') }}", "{% if messages[0].role != 'user' %}{{ raise_exception('bad: ' ~ messages[0].role) }}{% endif %}",
    "{{ text.nothing() }}", "{{ messages[0].a.b }}", "{{ messages[99].role }}", "{{ 1 + 'a' }}", "{{ undefined_name + 'a' }}", "{{ undefined_name|tojson }}", "{% for x in undefined_name %}a{% endfor %}b", "{{ undefined_name.x }}",
    "{{ none|trim }}|{{ none|length }}", "{{ 5|trim }}|{{ list|trim }}", "{{ 'a' + none }}", "{{ [1,2].append(3) }}", "{{ nested.update({'x': 1}) }}", "{{ none.x }}|", "{{ text.foo }}|", "{{ list.foo }}|{{ list[7] }}|",
    "{{ (text ~ 'x').split('o')|map('length')|list }}", "{{ messages|tojson|length }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
    "{{ not yes }} {{ yes and 'a' or 'b' }} {{ '' or 'x' }} {{ none or [] }} {{ 0 or 1 }} {{ yes and none }}", "{{ 1 if yes else 2 if no else 3 }}", "{{ [x for x in list] }}", "{{ 10 > 5 > 1 }} {{ 1 < 2 == 2 }}", "{{ -int }} {{ 1_000 }} {{ 1e3 }} {{ 0x1f }}", "{{ +int }}",
    "{{ True }}{{ true }}{{ None }}{{ none }}{{ False }}", "{{ 'a'|default('b')|upper ~ 'c' }}", "{{ {'a': 1}.items()|list }} {{ {'a': 1}['a'] }} {{ {'a': {'b': 2}}.a.b }}", "{{ list is sequence and list is not string }}", "{{ int is string }}{{ text is not string }}",
]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    cases = []
    for source in TEMPLATES:
        case = {"template": source}
        try:
            case["rendered"] = _compile_jinja_template(source).render(**CONTEXT)
        except Exception as error:
            case["error"] = f"{type(error).__name__}: {error}"
        cases.append(case)
    with open(os.path.join(here, "jinja_cases.json"), "w") as file:
        json.dump({"context": CONTEXT, "cases": cases}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    print(len(cases), "cases,", sum("error" in case for case in cases), "errors")


if __name__ == "__main__":
    main()
