"""Calls by the SDKs for Python. Prints the calls and tokens that each provider told."""
import os

import anthropic
import openai
from google import genai
from google.genai import errors
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
import litellm

gateway, key = os.environ["GATEWAY"], os.environ["OPENAI_API_KEY"]
told = {"openai": [0, 0], "anthropic": [0, 0], "gemini": [0, 0]}


def count(provider, tokens):
    assert tokens > 0, provider
    told[provider][0] += 1
    told[provider][1] += tokens


def refused(error, call):
    try:
        call()
    except error:
        return
    raise SystemExit(f"{error} was expected")


def by_openai():
    client = openai.OpenAI()
    chat = dict(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello [[tokens=17]]"}])
    count("openai", client.chat.completions.create(**chat).usage.total_tokens)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **chat))
    count("openai", chunks[-1].usage.total_tokens)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(tools=[tool], tool_choice="required", **chat)
    assert answer.choices[0].message.tool_calls[0].function.name == "look"
    count("openai", answer.usage.total_tokens)
    answer = client.responses.create(model="gpt-4o-mini", input="hello [[tokens=17]]")
    assert answer.output_text and answer.usage.output_tokens == 17
    count("openai", answer.usage.total_tokens)
    with client.responses.stream(model="gpt-4o-mini", input="hello [[tokens=17]]") as stream:
        final = stream.until_done().get_final_response()
    assert final.output_text == answer.output_text
    count("openai", final.usage.total_tokens)
    count("openai", client.completions.create(model="gpt-4o-mini", prompt=["a", "b"]).usage.total_tokens)
    count("openai", client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).usage.total_tokens)
    assert not client.moderations.create(input="x").results[0].flagged
    names = [m.id for m in client.models.list()]
    assert "gpt-4o-mini" in names and client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini", names
    refused(openai.NotFoundError, lambda: client.chat.completions.create(**{**chat, "model": "nope"}))
    refused(openai.NotFoundError, lambda: client.responses.retrieve("resp_1"))
    refused(openai.NotFoundError, lambda: client.images.generate(prompt="x"))
    refused(openai.BadRequestError, lambda: client.responses.create(model="gpt-4o-mini", input="x", background=True))
    refused(openai.AuthenticationError, lambda: openai.OpenAI(api_key="leaky_no").models.list())


def by_anthropic():
    client = anthropic.Anthropic(base_url=gateway, api_key=key)
    ask = dict(model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": "hello [[tokens=17]]"}])
    answer = client.messages.create(**ask)
    assert answer.content[0].text and answer.usage.output_tokens == 17
    count("anthropic", answer.usage.input_tokens + answer.usage.output_tokens)
    with client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert text == answer.content[0].text
    count("anthropic", usage.input_tokens + usage.output_tokens)
    answer = client.messages.create(tools=[{"name": "look", "input_schema": {"type": "object"}}], tool_choice={"type": "any"}, **ask)
    assert answer.content[0].name == "look"
    count("anthropic", answer.usage.input_tokens + answer.usage.output_tokens)
    assert client.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens == 5
    assert "claude-haiku-4-5" in [m.id for m in client.models.list()]
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5"
    refused(anthropic.NotFoundError, lambda: client.messages.create(**{**ask, "model": "claude-nope"}))
    refused(anthropic.AuthenticationError, lambda: anthropic.Anthropic(base_url=gateway, api_key="leaky_no").messages.create(**ask))


def by_google():
    client = genai.Client(api_key=key, http_options={"base_url": gateway})
    ask = dict(model="gemini-2.5-flash", contents="hello [[tokens=17]]")
    answer = client.models.generate_content(**ask)
    count("gemini", answer.usage_metadata.total_token_count)
    chunks = list(client.models.generate_content_stream(**ask))
    assert "".join(c.text for c in chunks) == answer.text
    count("gemini", chunks[-1].usage_metadata.total_token_count)
    assert client.models.count_tokens(**ask).total_tokens == 5
    client.models.embed_content(model="gemini-embedding-001", contents=["12345678", "1234"])
    count("gemini", 3)
    assert "models/gemini-2.5-flash" in [m.name for m in client.models.list()]
    assert client.models.get(model="gemini-2.5-flash").name == "models/gemini-2.5-flash"
    refused(errors.ClientError, lambda: client.models.generate_content(model="gemini-nope", contents="x"))


def by_frameworks():
    answer = ChatOpenAI(model="gpt-4o-mini").invoke("hello [[tokens=17]]")
    count("openai", answer.usage_metadata["total_tokens"])
    assert "".join(c.content for c in ChatOpenAI(model="gpt-4o-mini").stream("hello [[tokens=17]]")) == answer.content
    count("openai", answer.usage_metadata["total_tokens"])
    assert len(OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_query("12345678")) > 0
    count("openai", 2)
    answer = litellm.completion(model="openai/gpt-4o-mini", api_base=gateway + "/v1", api_key=key,
                                messages=[{"role": "user", "content": "hello [[tokens=17]]"}])
    count("openai", answer.usage.total_tokens)


for part in by_openai, by_anthropic, by_google, by_frameworks:
    part()
for provider, (calls, tokens) in told.items():
    print("told", provider, calls, tokens)
