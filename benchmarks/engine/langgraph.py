"""langgraph: a graph of one node that asks langchain-openai's model, and its messages as they come."""

from importlib import import_module
from typing import Any

from openai import DefaultAsyncHttpxClient

from engine.contestant import MODEL, PROMPT, Engine, Hear

graphs: Any = import_module("langgraph.graph")
langchain_openai: Any = import_module("langchain_openai")


class LangGraph(Engine):
    async def start(self, base_url: str) -> None:
        model = langchain_openai.ChatOpenAI(
            model=MODEL,
            base_url=base_url,
            api_key="none",
            stream_usage=True,
            http_async_client=DefaultAsyncHttpxClient(),
        )

        async def answer(state: dict[str, Any]) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = graphs.StateGraph(graphs.MessagesState)
        graph.add_node("answer", answer)
        graph.add_edge(graphs.START, "answer")
        graph.add_edge("answer", graphs.END)
        self.graph = graph.compile()

    async def ask(self, hear: Hear) -> None:
        prompt = {"messages": [{"role": "user", "content": PROMPT}]}
        async for message, _ in self.graph.astream(prompt, stream_mode="messages"):
            if message.content:
                hear(message.content)


contestant = LangGraph
