"""Calls by the SDKs for Python. Prints the calls and tokens that each provider told, and the streams
that were left after thirty of a hundred tokens."""
import os

import anthropic
import openai
from google import genai
from google.genai import errors
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
import litellm
import pydantic

gateway, key = os.environ["GATEWAY"], os.environ["OPENAI_API_KEY"]
tiny, leaver = os.environ["TINY_KEY"], os.environ["LEAVER_KEY"]  # of an account of few tokens; of who leaves streams
told = {"openai": [0, 0], "anthropic": [0, 0], "gemini": [0, 0]}
left = {"openai": 0, "anthropic": 0, "gemini": 0}
stalled = {"x-stub-stall-after-chunks": "30"}
story = "a story [[tokens=100]]"


class Leak(pydantic.BaseModel):
    place: str
    litres: int


def count(provider, tokens):
    assert tokens > 0, provider
    told[provider][0] += 1
    told[provider][1] += tokens


def leave(provider, stream, carries=lambda piece: True):
    """Reads thirty pieces that carry tokens, and closes the stream."""
    pieces = iter(stream)
    for _ in range(30):
        while not carries(next(pieces)):
            pass
    getattr(stream, "close", lambda: None)()
    left[provider] += 1


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
    answer = client.chat.completions.parse(response_format=Leak, **chat)
    assert isinstance(answer.choices[0].message.parsed, Leak)
    count("openai", answer.usage.total_tokens)
    answer = client.responses.parse(text_format=Leak, model="gpt-4o-mini", input="hello")
    assert isinstance(answer.output_parsed, Leak)
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
    pictures = client.images.generate(model="gpt-image-1", prompt="x", n=2, quality="low")
    assert len(pictures.data) == 2 and pictures.data[0].b64_json, pictures
    count("openai", pictures.usage.total_tokens)
    refused(openai.NotFoundError, lambda: client.images.create_variation(image=b"x"))
    refused(openai.BadRequestError, lambda: client.responses.create(model="gpt-4o-mini", input="x", background=True))
    refused(openai.AuthenticationError, lambda: openai.OpenAI(api_key="leaky_no").models.list())
    refused(openai.RateLimitError, lambda: openai.OpenAI(api_key=tiny).chat.completions.create(max_tokens=5000, **chat))
    leaving = openai.OpenAI(api_key=leaver, default_headers=stalled)
    leave("openai", leaving.chat.completions.create(model="gpt-4o-mini", stream=True, messages=[{"role": "user", "content": story}]),
          lambda c: c.choices and c.choices[0].delta.content)
    leave("openai", leaving.responses.create(model="gpt-4o-mini", stream=True, input=story), lambda e: e.type == "response.output_text.delta")


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
    answer = client.messages.parse(output_format=Leak, **ask)
    assert isinstance(answer.parsed_output, Leak)
    count("anthropic", answer.usage.input_tokens + answer.usage.output_tokens)
    assert client.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens == 5
    assert "claude-haiku-4-5" in [m.id for m in client.models.list()]
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5"
    refused(anthropic.NotFoundError, lambda: client.messages.create(**{**ask, "model": "claude-nope"}))
    refused(anthropic.AuthenticationError, lambda: anthropic.Anthropic(base_url=gateway, api_key="leaky_no").messages.create(**ask))
    refused(anthropic.RateLimitError, lambda: anthropic.Anthropic(base_url=gateway, api_key=tiny).messages.create(**{**ask, "max_tokens": 5000}))
    leaving = anthropic.Anthropic(base_url=gateway, api_key=leaver, default_headers=stalled)
    leave("anthropic", leaving.messages.create(model=ask["model"], max_tokens=200, stream=True, messages=[{"role": "user", "content": story}]),
          lambda e: e.type == "content_block_delta")


def by_google():
    client = genai.Client(api_key=key, http_options={"base_url": gateway})
    ask = dict(model="gemini-2.5-flash", contents="hello [[tokens=17]]")
    answer = client.models.generate_content(**ask)
    count("gemini", answer.usage_metadata.total_token_count)
    chunks = list(client.models.generate_content_stream(**ask))
    assert "".join(c.text for c in chunks) == answer.text
    count("gemini", chunks[-1].usage_metadata.total_token_count)
    look = {"function_declarations": [{"name": "look", "parameters": {"type": "OBJECT", "properties": {"q": {"type": "STRING"}}}}]}
    answer = client.models.generate_content(**ask, config={"tools": [look], "tool_config": {"function_calling_config": {"mode": "ANY"}}})
    assert answer.function_calls[0].name == "look"
    count("gemini", answer.usage_metadata.total_token_count)
    answer = client.models.generate_content(**ask, config={"response_mime_type": "application/json", "response_schema": Leak})
    assert isinstance(answer.parsed, Leak)
    count("gemini", answer.usage_metadata.total_token_count)
    assert client.models.count_tokens(**ask).total_tokens == 5
    client.models.embed_content(model="gemini-embedding-001", contents=["12345678", "1234"])
    count("gemini", 3)
    assert "models/gemini-2.5-flash" in [m.name for m in client.models.list()]
    assert client.models.get(model="gemini-2.5-flash").name == "models/gemini-2.5-flash"
    for code, by, wrong in (404, key, {"model": "gemini-nope"}), (401, "leaky_no", {}), (429, tiny, {"config": {"max_output_tokens": 5000}}):
        other = genai.Client(api_key=by, http_options={"base_url": gateway})  # it closes when nothing holds it
        try:
            other.models.generate_content(**{**ask, **wrong})
            raise SystemExit(f"{code} was expected")
        except errors.ClientError as e:
            assert e.code == code, e
    leaving = genai.Client(api_key=leaver, http_options={"base_url": gateway, "headers": stalled})
    leave("gemini", leaving.models.generate_content_stream(model=ask["model"], contents=story))


def by_frameworks():
    answer = ChatOpenAI(model="gpt-4o-mini").invoke("hello [[tokens=17]]")
    count("openai", answer.usage_metadata["total_tokens"])
    assert "".join(c.content for c in ChatOpenAI(model="gpt-4o-mini").stream("hello [[tokens=17]]")) == answer.content
    count("openai", answer.usage_metadata["total_tokens"])
    assert len(OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_query("12345678")) > 0
    count("openai", 2)
    answer = ChatOpenAI(model="gpt-4o-mini").bind_tools([Leak], tool_choice="Leak").invoke("hello [[tokens=17]]")
    assert answer.tool_calls[0]["name"] == "Leak" or answer.invalid_tool_calls
    count("openai", answer.usage_metadata["total_tokens"])
    answer = ChatOpenAI(model="gpt-4o-mini").with_structured_output(Leak, method="json_schema", include_raw=True).invoke("hello")
    assert isinstance(answer["parsed"], Leak)
    count("openai", answer["raw"].usage_metadata["total_tokens"])
    refused(openai.NotFoundError, lambda: ChatOpenAI(model="nope").invoke("x"))
    refused(openai.AuthenticationError, lambda: ChatOpenAI(model="gpt-4o-mini", api_key="leaky_no").invoke("x"))
    refused(openai.RateLimitError, lambda: ChatOpenAI(model="gpt-4o-mini", api_key=tiny, max_tokens=5000).invoke("x"))
    leave("openai", ChatOpenAI(model="gpt-4o-mini", api_key=leaver, default_headers=stalled).stream(story), lambda c: c.content)
    ask = dict(model="openai/gpt-4o-mini", api_base=gateway + "/v1", api_key=key, messages=[{"role": "user", "content": "hello [[tokens=17]]"}])
    answer = litellm.completion(**ask)
    count("openai", answer.usage.total_tokens)
    chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **ask))
    count("openai", chunks[-1].usage.total_tokens)
    look = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    answer = litellm.completion(tools=[look], tool_choice="required", **ask)
    assert answer.choices[0].message.tool_calls[0].function.name == "look"
    count("openai", answer.usage.total_tokens)
    answer = litellm.completion(response_format=Leak, **ask)
    assert isinstance(Leak.model_validate_json(answer.choices[0].message.content), Leak)
    count("openai", answer.usage.total_tokens)
    count("openai", litellm.embedding(model="openai/text-embedding-3-small", input=["a", "b"], api_base=gateway + "/v1", api_key=key).usage.total_tokens)
    refused(litellm.NotFoundError, lambda: litellm.completion(**{**ask, "model": "openai/nope"}))
    refused(litellm.AuthenticationError, lambda: litellm.completion(**{**ask, "api_key": "leaky_no"}))
    refused(litellm.RateLimitError, lambda: litellm.completion(max_tokens=5000, num_retries=0, **{**ask, "api_key": tiny}))
    story_of = {**ask, "api_key": leaver, "messages": [{"role": "user", "content": story}], "extra_headers": stalled}
    leave("openai", litellm.completion(stream=True, **story_of), lambda c: c.choices and c.choices[0].delta.content)


for part in by_openai, by_anthropic, by_google, by_frameworks:
    part()
for provider, (calls, tokens) in told.items():
    print("told", provider, calls, tokens)
for provider, calls in left.items():
    print("left", provider, calls)
